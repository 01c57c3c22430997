"""Per-node caps, and rows no policy writes."""

from __future__ import annotations

import math

import pytest

from understudy.router.caps import Cap, Spent, is_consistent, spend
from understudy.types.decision import RecordKind
from understudy.types.errors import InvalidValueError
from unit.router.rows import row

CAP = Cap(calls_per_s=2.0, burst=5.0)


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    spent = spend(None, CAP, 100.0)
    allowed = [spent.allowed]
    for _ in range(9):
        spent = spend(spent, CAP, 100.0)
        allowed.append(spent.allowed)

    assert [True] * 5 + [False] * 5 == allowed
    assert 0.5 == spent.retry_after_s
    assert spend(spent, CAP, 100.5).allowed


def test_a_clock_that_goes_back_refills_nothing() -> None:
    # Clock skew on the caller's side must not open the cap, nor lock it for ever.
    empty = Spent(left=0.0, at_s=100.0)
    back = spend(empty, CAP, 50.0)

    assert (False, 100.0) == (back.allowed, back.at_s)
    assert spend(back, CAP, 100.5).allowed


def test_forced_escalations_are_bounded_over_any_time() -> None:
    # A client that lowers its own confidence must not spend the fleet's teacher.
    spent, allowed = None, 0
    for tick in range(10_000):
        spent = spend(spent, CAP, tick / 100)
        allowed += spent.allowed

    assert allowed <= 5 + 2 * 100


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.0, 1.0), (1.0, 0.5), (math.nan, 1.0), (1.0, math.inf)]
)
def test_a_cap_that_never_allows_or_never_refuses_is_a_mistake(rate: float, burst: float) -> None:
    with pytest.raises(InvalidValueError):
        Cap(rate, burst)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, True, id="audit"),
        pytest.param({"confidence": 0.1}, True, id="escalation"),
        pytest.param({"kind": RecordKind.DEGRADED}, True, id="degraded"),
        pytest.param({"confidence": 0.1, "propensity": 0.3}, False, id="cheap-escalation"),
        pytest.param({"coin": False}, False, id="audit-without-coin"),
        pytest.param({"propensity": 0.9}, False, id="audit-at-another-rate"),
        pytest.param({"rate": 0.0}, False, id="audit-at-no-rate"),
        pytest.param(
            {"confidence": 0.1, "kind": RecordKind.AUDIT}, False, id="audit-under-the-threshold"
        ),
    ],
)
def test_rows_no_policy_writes_are_recognised(changes: dict[str, object], wanted: bool) -> None:
    assert wanted == is_consistent(row(**changes).record)  # type: ignore[arg-type]
