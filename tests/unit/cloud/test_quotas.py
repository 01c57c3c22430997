"""Token buckets: a node's fault stays its own, and no request is impossible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cloud.quotas import QuotaError, Quotas, TokenBucket


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


def test_refusals_of_a_flood_are_kept_back_and_those_of_others_are_not() -> None:
    """Answering late is what slows a flood down; a node that slips hears at once."""
    now = [0.0]
    quotas = Quotas(
        requests_per_s=1, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1, clock=lambda: now[0]
    )

    holds = [quotas.hold_s("flood") for _ in range(100)]

    assert [0.0] * 20 == holds[:20]
    assert 0.0 < min(holds[20:]) <= max(holds) <= 1.0
    assert 0.0 == quotas.hold_s("other")
    assert 1.0 == max(holds)
    now[0] += 2.0
    assert 0.0 == quotas.hold_s("flood")
