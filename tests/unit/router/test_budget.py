"""The budget governor and the audit rate it leaves."""

from __future__ import annotations

import math

import pytest

from understudy.router.budget import (
    AuditRates,
    Governor,
    Spending,
    affordable_audit_rate,
    early_budget,
    rank_threshold,
)
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import InvalidValueError


def test_spending_lowers_the_threshold_and_patience_raises_it() -> None:
    start = Governor(0.2, 0.5, gain=0.1)

    assert start.step(spent=True).threshold == pytest.approx(0.42)
    assert start.step(spent=False).threshold == pytest.approx(0.52)


def test_a_quiet_day_does_not_save_up_for_a_burst() -> None:
    governor = Governor(0.5)
    for _ in range(10_000):
        governor = governor.step(spent=False)

    assert governor.threshold == pytest.approx(1.02)
    assert governor.most_escalations(0) <= 52.1


def test_nothing_escalates_while_the_budget_is_overdrawn() -> None:
    governor = Governor(0.1, 0.05)
    for _ in range(5):
        governor = governor.step(spent=True)

    assert governor.threshold < 0.0
    assert 0.1 * 100 == governor.most_escalations(100)


@pytest.mark.parametrize(
    ("budget", "threshold", "gain"),
    [
        (0.0, 0.5, 0.02),
        (1.1, 0.5, 0.02),
        (math.nan, 0.5, 0.02),
        (0.1, 2.0, 0.02),
        (0.1, math.nan, 0.02),
        (0.1, 0.5, 0.0),
        (0.1, 0.5, 1.0),
    ],
)
def test_a_governor_that_cannot_hold_is_refused(
    budget: float, threshold: float, gain: float
) -> None:
    with pytest.raises(InvalidValueError):
        Governor(budget, threshold, gain)


@pytest.mark.parametrize(
    ("escalated", "wanted"),
    [
        pytest.param(0.1, 0.1 / 0.9, id="spends-what-is-left"),
        pytest.param(0.25, 0.01, id="floor-when-overspent"),
        pytest.param(0.0, 0.15, id="ceiling"),
        pytest.param(1.0, 0.01, id="nothing-kept"),
    ],
)
def test_audits_spend_what_escalations_leave(escalated: float, wanted: float) -> None:
    rates = AuditRates(0.01, 0.15)

    assert wanted == pytest.approx(affordable_audit_rate(0.2, escalated, rates))


def test_a_stream_with_a_known_end_spends_early() -> None:
    shares = [early_budget(0.2, progress, lead=0.9) for progress in (0.0, 0.5, 1.0)]

    assert [0.38, 0.2, 0.02] == pytest.approx(shares)
    with pytest.raises(InvalidValueError):
        early_budget(0.2, 1.1)
    with pytest.raises(InvalidValueError):
        early_budget(0.2, 0.5, lead=1.0)


def test_an_early_lead_is_paid_back_by_its_last_request_and_forgotten_after_it() -> None:
    spending = Spending(0.2, lead=0.9, requests=50)
    shares = [spending.at(number) for number in range(200)]

    assert shares[0] > 0.37
    assert shares[49] < 0.03
    assert sum(shares[:50]) == pytest.approx(0.2 * 50)
    assert set(shares[50:]) == {0.2}
    with pytest.raises(InvalidValueError):
        Spending(0.2, lead=1.0, requests=10)
    with pytest.raises(InvalidValueError):
        Spending(0.2, lead=0.5, requests=-1)


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        pytest.param(-0.02, [0.1, 0.2, 0.2, 0.7], id="overdrawn-keeps-all"),
        pytest.param(0.0, [0.1, 0.2, 0.2, 0.7], id="nothing-to-spend-keeps-all"),
        pytest.param(0.01, [0.2, 0.2, 0.7], id="a-little-asks-about-the-least-sure"),
        pytest.param(0.5, [0.7], id="ties-ask-together"),
        pytest.param(1.0, [], id="all-of-it"),
        pytest.param(1.02, [], id="more-than-all"),
    ],
)
def test_a_rank_is_the_share_of_recent_requests_that_were_less_sure(
    share: float, kept: list[float]
) -> None:
    recent = [0.1, 0.2, 0.2, 0.7]
    threshold = rank_threshold(recent, share)

    assert kept == [c for c in recent if c >= threshold]


def test_the_first_request_of_all_has_no_rank_and_asks_if_anything_may_be_spent() -> None:
    assert rank_threshold([], 0.1) == NEVER_KEEP
    assert rank_threshold([], 0.0) == 0.0


def test_audits_never_stop() -> None:
    assert 0.01 == AuditRates(0.01, 0.15).within(math.nan)
    with pytest.raises(InvalidValueError):
        AuditRates(0.0, 0.1)
    with pytest.raises(InvalidValueError):
        affordable_audit_rate(0.2, math.nan, AuditRates())
