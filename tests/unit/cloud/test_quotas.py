"""Token buckets: a node's fault stays its own, and no request is impossible."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cloud.quotas import QuotaError, Quotas, TokenBucket, Usage


def test_a_burst_is_allowed_and_then_the_rate_holds() -> None:
    """Ten a second for two seconds at once, then one each tenth of a second."""
    bucket = TokenBucket(10.0, 2.0, 0.0)

    waits = [bucket.spend(1.0, 0.0) for _ in range(21)]

    assert [0.0] * 20 == waits[:20]
    assert pytest.approx(0.1) == waits[20]
    assert 0.0 == bucket.spend(1.0, 0.1)


def test_waiting_as_long_as_told_is_enough() -> None:
    """Push-back must be honest, or patient nodes are punished."""
    bucket = TokenBucket(3.0, 1.0, 0.0)
    for _ in range(3):
        bucket.spend(1.0, 0.0)

    wait_s = bucket.spend(2.0, 0.5)

    assert wait_s > 0.0
    assert 0.0 == bucket.spend(2.0, 0.5 + wait_s)


def test_a_spend_above_the_bucket_is_slow_and_not_impossible() -> None:
    """A batch larger than the burst goes when the bucket is full, and leaves a debt."""
    bucket = TokenBucket(10.0, 1.0, 0.0)

    assert 0.0 == bucket.spend(25.0, 0.0)
    assert pytest.approx(1.6) == bucket.spend(1.0, 0.0)


def test_a_rate_of_zero_is_no_limit() -> None:
    """How an operator switches a limit off."""
    assert 0.0 == TokenBucket(0.0, 1.0, 0.0).spend(1e12, 0.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Time that seems to run backwards must not fill a bucket twice."""
    bucket = TokenBucket(1.0, 1.0, 100.0)
    bucket.spend(1.0, 100.0)

    assert bucket.spend(1.0, 50.0) > 0.0
    assert bucket.spend(1.0, 100.0) > 0.0


@given(
    rate=st.floats(0.1, 1e3),
    burst_s=st.floats(0.1, 10.0),
    gaps=st.lists(st.floats(0.0, 2.0), max_size=60),
)
def test_never_more_than_burst_and_rate_allow(
    rate: float, burst_s: float, gaps: list[float]
) -> None:
    """The law of a token bucket, over any arrival times."""
    bucket, now, granted = TokenBucket(rate, burst_s, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        granted += bucket.spend(1.0, now) == 0.0

    # A bucket smaller than one call still lets one through when it is full.
    assert granted <= max(rate * burst_s, 1.0) + rate * now + 1e-6


def test_nodes_do_not_share_a_bucket() -> None:
    """The neighbour of a flood does not notice."""
    quotas = Quotas(
        requests_per_s=1, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1, clock=lambda: 0.0
    )
    quotas.spend_request("a", 10)

    with pytest.raises(QuotaError, match="node 'a' is over its quota of calls") as caught:
        quotas.spend_request("a", 10)
    quotas.spend_request("b", 10)

    assert pytest.approx(1.0) == caught.value.retry_after_s


@pytest.mark.parametrize(
    ("rates", "spend", "what"),
    [
        pytest.param({"bytes_per_s": 100.0}, ("request", 150), "bytes", id="bytes"),
        pytest.param({"teacher_calls_per_s": 1.0}, ("teacher", 2), "teacher calls", id="teacher"),
    ],
)
def test_bytes_and_teacher_calls_have_limits_of_their_own(
    rates: dict[str, float], spend: tuple[str, int], what: str
) -> None:
    """A few huge messages, or a few huge batches, are a flood too."""
    zero = {"requests_per_s": 0.0, "bytes_per_s": 0.0, "teacher_calls_per_s": 0.0}
    quotas = Quotas(**(zero | rates), burst_s=1.0, clock=lambda: 0.0)
    kind, amount = spend
    act = quotas.spend_request if kind == "request" else quotas.spend_teacher
    act("a", amount)

    with pytest.raises(QuotaError, match=f"quota of {what}"):
        act("a", amount)


def test_refusals_of_a_flood_leave_one_by_one_and_those_of_others_at_once() -> None:
    """Answering late is what slows a flood down; a node that slips hears at once."""
    now = [0.0]
    quotas = Quotas(
        requests_per_s=1, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1, clock=lambda: now[0]
    )

    holds = [quotas.hold_s("flood") for _ in range(84)]

    assert [0.0] * 20 == holds[:20]
    gaps = [later - sooner for sooner, later in itertools.pairwise(holds[20:])]
    assert [pytest.approx(0.05)] * 63 == gaps
    assert 0.0 == quotas.hold_s("other")
    now[0] += 10.0
    assert 0.0 == quotas.hold_s("flood")


def test_who_does_not_wait_for_its_refusals_is_told_apart() -> None:
    """Two hundred owed refusals are more than the calls of one connection: it gives them up."""
    now = [0.0]
    quotas = Quotas(
        requests_per_s=1, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1, clock=lambda: now[0]
    )

    holds = [quotas.hold_s("reset") for _ in range(300)]

    assert math.inf == holds[-1]
    assert all(math.isfinite(one) for one in holds[:219])
    now[0] += 1.0
    assert math.isfinite(quotas.hold_s("reset"))


def make_quotas(now: list[float], **rates: float) -> Quotas:
    zero = {"requests_per_s": 0.0, "bytes_per_s": 0.0, "teacher_calls_per_s": 0.0}
    return Quotas(**(zero | rates), burst_s=1.0, clock=lambda: now[0])


def test_what_a_node_used_elsewhere_counts_here() -> None:
    """Whoever spreads calls over four gateways has one quota, not four."""
    now = [0.0]
    here = make_quotas(now, requests_per_s=10.0, bytes_per_s=100.0, teacher_calls_per_s=5.0)
    here.charge({"a": Usage(calls=10.0)})
    here.charge({"b": Usage(bytes=150.0), "c": Usage(teacher=5.0)})

    with pytest.raises(QuotaError, match="quota of calls"):
        here.spend_request("a", 1)
    with pytest.raises(QuotaError, match="quota of bytes"):
        here.spend_request("b", 1)
    with pytest.raises(QuotaError, match="quota of teacher calls"):
        here.spend_teacher("c", 1)
    here.spend_request("d", 1)


def test_over_time_many_processes_grant_what_one_would() -> None:
    """Each grants all it has between two exchanges; the debt is paid before the next grant."""
    now, granted = [0.0], 0
    processes = [make_quotas(now, requests_per_s=50.0) for _ in range(4)]
    for _ in range(200):
        now[0] += 0.1
        for quotas in processes:
            granted += grants(quotas, attempts=40)
        if round(now[0] * 10) % 5 == 0:
            exchange(processes)

    # Twenty seconds at the rate, and a burst that each process granted at the beginning.
    assert granted <= 20.0 * 50.0 + 4 * 50.0 + 4 * 25.0
    assert granted >= 20.0 * 50.0 * 0.9


def grants(quotas: Quotas, *, attempts: int) -> int:
    granted = 0
    for _ in range(attempts):
        try:
            quotas.spend_request("a", 0)
        except QuotaError:
            continue
        granted += 1
    return granted


def exchange(processes: list[Quotas]) -> None:
    told = [quotas.take_usage() for quotas in processes]
    for number, quotas in enumerate(processes):
        for other, used in enumerate(told):
            if other != number:
                quotas.charge(used)


def test_what_was_refused_is_not_told_and_what_was_told_is_not_told_again() -> None:
    """Otherwise a flood at one gateway would also use up the node's share of the others."""
    quotas = make_quotas([0.0], requests_per_s=3.0)

    granted = grants(quotas, attempts=30)

    assert {"a": Usage(calls=float(granted))} == quotas.take_usage()
    assert {} == quotas.take_usage()


def test_without_limits_nothing_is_told() -> None:
    """No exchange has to run then."""
    quotas = make_quotas([0.0])
    quotas.spend_request("a", 10)

    assert not quotas.shared
    assert {} == quotas.take_usage()
