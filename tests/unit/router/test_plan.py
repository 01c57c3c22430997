"""What a contract costs before anything is deployed."""

from __future__ import annotations

import pytest

from understudy.router.plan import Traffic, escalation_floor, plan
from understudy.types.contract import Contract, RiskKind
from understudy.types.errors import InvalidValueError


def test_one_per_cent_at_two_per_cent_audits_takes_fifteen_thousand_requests() -> None:
    found = plan(
        Contract(max_quality_loss=0.01),
        Traffic(requests_per_day=5000, audit_rate=0.02, observed_risk=0.0),
    )

    assert (299, 299, 14950) == (found.audits_clean, found.audits, found.requests)
    assert found.days == pytest.approx(2.99)
    assert found.escalation_floor is None
    assert found.savings_bound is None


def test_half_the_allowed_risk_is_expected_when_nothing_is_known() -> None:
    found = plan(Contract(max_quality_loss=0.05), Traffic(requests_per_day=1e4, audit_rate=0.01))

    assert 234 == found.audits


def test_the_least_share_of_teacher_calls_is_said_before_deployment() -> None:
    # A student that differs on 21 % cannot lose only 5 % by asking less than 16 % of the time.
    traffic = Traffic(requests_per_day=1e4, audit_rate=0.02, disagreement=0.21)
    found = plan(Contract(max_quality_loss=0.05), traffic)

    assert found.escalation_floor == pytest.approx(0.16)
    assert found.savings_bound == pytest.approx(0.84 * 0.98)
    assert found.improvement_needed == pytest.approx(0.16)


def test_a_selective_contract_asks_for_more() -> None:
    selective = Contract(max_quality_loss=0.05, kind=RiskKind.SELECTIVE)

    assert escalation_floor(selective, 0.21) == pytest.approx(0.16 / 0.95)
    assert 1.0 == escalation_floor(selective, 1.0)
    assert 0.0 == escalation_floor(selective, 0.01)


def test_a_risk_at_the_contract_can_never_be_proved() -> None:
    traffic = Traffic(requests_per_day=1e4, audit_rate=0.02, observed_risk=0.05)
    found = plan(Contract(max_quality_loss=0.05), traffic)

    assert (None, None, None) == (found.audits, found.requests, found.days)


@pytest.mark.parametrize(
    "change",
    [
        {"requests_per_day": 0.0},
        {"requests_per_day": float("inf")},
        {"audit_rate": 0.0},
        {"disagreement": 1.5},
        {"observed_risk": -0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_traffic_that_cannot_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError):
        Traffic(**{"requests_per_day": 1.0, "audit_rate": 0.1, **change})
