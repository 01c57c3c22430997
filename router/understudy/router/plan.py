"""What a contract costs before anything is deployed: audits, days, the savings possible at best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from understudy.router.bounds import clean_rows, rows_needed
from understudy.types.contract import Contract, RiskKind
from understudy.types.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is known before a contract is chosen.

    Attributes:
        requests_per_day: Requests of the whole fleet, above 0.
        audit_rate: Probability of the audit coin, in (0, 1].
        disagreement: How often student and teacher differ on all traffic, in [0, 1].
        observed_risk: Risk expected at the threshold; half the contract's when omitted.
    """

    requests_per_day: float
    audit_rate: float
    disagreement: float | None = None
    observed_risk: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.requests_per_day < math.inf:
            raise InvalidValueError("requests_per_day must be above 0")
        if not 0.0 < self.audit_rate <= 1.0:
            raise InvalidValueError(f"audit_rate must lie in (0, 1], not {self.audit_rate}")
        for name in ("disagreement", "observed_risk"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise InvalidValueError(f"{name} must lie in [0, 1], not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a contract needs and allows.

    Attributes:
        audits_clean: Audited rows that suffice if not one is an error.
        audits: Audited rows that suffice at the observed risk; None when no number does.
        requests: Requests until that many coins have fallen, on average; None likewise.
        days: Days until then; None likewise.
        escalation_floor: Least share of teacher calls this student can ever reach under the
            contract, audits not counted; None when the disagreement is not known.
        savings_bound: Largest share of teacher calls that can be saved, audits counted; likewise.
        improvement_needed: How far the disagreement must fall before the contract asks for no
            escalation at all; likewise.
    """

    audits_clean: int
    audits: int | None
    requests: int | None
    days: float | None
    escalation_floor: float | None
    savings_bound: float | None
    improvement_needed: float | None


def plan(contract: Contract, traffic: Traffic) -> Plan:
    """Says what a contract needs: audits and days, and the least share of teacher calls."""
    rate, delta = contract.max_quality_loss, 1.0 - contract.confidence
    observed = rate / 2 if traffic.observed_risk is None else traffic.observed_risk
    audits = rows_needed(rate, delta, observed)
    requests = None if audits is None else math.ceil(audits / traffic.audit_rate)
    floor = escalation_floor(contract, traffic.disagreement)
    # Audits are drawn on all traffic, but only those of kept requests cost a call of their own.
    saved = None if floor is None else (1.0 - floor) * (1.0 - traffic.audit_rate)
    missing = None if traffic.disagreement is None else max(0.0, traffic.disagreement - rate)
    return Plan(
        audits_clean=clean_rows(rate, delta),
        audits=audits,
        requests=requests,
        days=None if requests is None else requests / traffic.requests_per_day,
        escalation_floor=floor,
        savings_bound=saved,
        improvement_needed=missing,
    )


def escalation_floor(contract: Contract, disagreement: float | None) -> float | None:
    """The least share that must escalate, even with a perfect score.

    Who keeps everything errs as often as the student differs from the teacher; each escalation
    can remove one error at most. For a selective risk, kept answers are fewer as well.
    """
    if disagreement is None:
        return None
    excess = max(0.0, disagreement - contract.max_quality_loss)
    if contract.kind is RiskKind.SELECTIVE:
        return min(1.0, excess / (1.0 - contract.max_quality_loss))
    return excess
