"""What `understudy policy` tells people, in words: pure, from values to text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.types.contract import Certificate, Contract, RiskKind

if TYPE_CHECKING:
    from understudy.router.offpolicy import Estimate, WhatIf
    from understudy.router.plan import Plan, Traffic

_OF = {
    RiskKind.JOINT: "of all requests are kept and differ from the teacher",
    RiskKind.SELECTIVE: "of the kept answers differ from the teacher",
    RiskKind.AVERAGE: "of all requests are kept and differ from the teacher, on average only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which rows of the log a question was answered from.

    Attributes:
        bundle: The student whose rows they are; empty for all of them.
        rows: Its rows.
        other_rows: Rows of other students, left out: their confidences mean something else.
        unreliable_rows: Rows on which the teacher could not be trusted.
        degraded_rows: Rows answered while the teacher was out of reach.
    """

    bundle: str
    rows: int
    other_rows: int
    unreliable_rows: int
    degraded_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """`what-if` for people: shares with their intervals, and what they rest on."""

    student: str
    threshold: str
    escalated: str
    calls: str
    risk_snips: str
    risk_ips: str
    risk_dr: str
    agreement: str
    savings: str
    labelled_rows: int
    effective_rows: int
    left_out: str
    certificate: str


def promise(contract: Contract) -> str:
    """The contract in one sentence."""
    loss, sure = _percent(contract.max_quality_loss), _percent(contract.confidence)
    return f"at most {loss} {_OF[contract.kind]}, with {sure} confidence"


def plan_words(plan: Plan, contract: Contract, traffic: Traffic) -> str:
    """What a contract needs, and what it can save, in two or three sentences."""
    need = f"To prove that {promise(contract)}: {plan.audits_clean:,} audited rows without error"
    if plan.audits is None or plan.days is None:
        return f"{need}; at the risk expected no number of rows does."
    half = " (half of what is allowed)" if traffic.observed_risk is None else ""
    told = (
        f"{need}, {plan.audits:,} with as many errors as expected{half}. At "
        f"{traffic.requests_per_day:,.0f} requests a day and {_percent(traffic.audit_rate)} "
        f"audits that is {_days(plan.days)}."
    )
    if plan.escalation_floor is None or plan.savings_bound is None:
        return f"{told}\nName --disagreement to hear how many calls this student can save at best."
    return (
        f"{told}\nAt least {_percent(plan.escalation_floor)} of requests must escalate, however "
        f"well the student knows its doubts: at best {_percent(plan.savings_bound)} of the "
        "teacher's calls are saved, audits counted."
    )


def certificate_words(found: Certificate) -> str:
    """What was proved, or what is missing."""
    if found.certified:
        return (
            f"certified: {_percent(found.keep_rate)} is kept, and at most "
            f"{_percent(found.risk_upper_bound)} {_OF[found.contract.kind]} "
            f"({_percent(found.contract.confidence)} confidence, {found.rows:,} audited rows)"
        )
    if found.rows_missing:
        return (
            f"not certified: about {found.rows_missing:,} further audited rows are needed, if "
            "errors keep coming as they did where the student is surest"
        )
    return (
        "not certified, and no number of rows helps: the student errs too often where it is surest"
    )


def judged(found: WhatIf, asked: Asked) -> Judged:
    """The answer of `what-if` for people."""
    calls = f"{_share(found.calls)}, with {_percent(found.audit_rate)} audits"
    return Judged(
        student=f"{asked.bundle[:12] or 'all of them'}, {asked.rows:,} rows",
        threshold="none: nothing may be kept"
        if math.isinf(found.threshold)
        else f"{found.threshold:.6g}",
        escalated=_share(found.escalated),
        calls=calls,
        risk_snips=_share(found.risk_snips),
        risk_ips=_share(found.risk_ips),
        risk_dr=_share(found.risk_dr),
        agreement=_share(found.agreement),
        savings=f"{_share(found.savings)}, against always asking the teacher",
        labelled_rows=found.labelled_rows,
        effective_rows=round(found.effective_rows),
        left_out=(
            f"{asked.other_rows:,} rows of other students, {asked.unreliable_rows:,} with an "
            f"unreliable teacher, {asked.degraded_rows:,} degraded"
        ),
        certificate="not asked for"
        if found.certificate is None
        else certificate_words(found.certificate),
    )


def _share(estimate: Estimate) -> str:
    low, high = _percent(estimate.low), _percent(estimate.high)
    return f"{_percent(estimate.value)} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _days(days: float) -> str:
    return f"{days:.2g} days" if days >= 1.0 else f"{24 * days:.2g} hours"
