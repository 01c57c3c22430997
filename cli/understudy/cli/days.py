"""What a stream's days came to: pure arithmetic over what was asked and what was answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from understudy.types.answer import Answer, Source
from understudy.types.decision import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One request with everything the report wants to know of it.

    Attributes:
        answer: What the product got.
        gold: The true label; empty when unknown.
        teacher: What the teacher says, asked or not; empty when unknown.
        student: What the student says, asked or not; empty when unknown.
        audited: True if the audit coin fell.
        asked: True if a teacher's answer was used: escalation or audit.
    """

    answer: Answer
    gold: str
    teacher: str
    student: str
    audited: bool
    asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """One day, in the fields promised for `report.json`; rates are shares of requests in [0, 1].

    A share is None where nothing is known to compute it from.
    """

    day: int
    requests: int
    escalation_rate: float
    audit_rate: float
    degraded_rate: float
    teacher_call_rate: float
    system_accuracy: float | None
    student_accuracy: float | None
    teacher_accuracy: float | None
    agreement: float | None
    joint_risk: float | None
    kept_rate: float
    threshold: float | None
    certified: bool
    certified_rate: float
    bundle: str
    edge_p50_ms: float
    edge_p99_ms: float
    test_accuracy: float | None = None
    new_labels: tuple[str, ...] = ()
    withdrawn: bool = False
    """True if the certificate was in force in the morning and not all day long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The whole stream, in the fields promised for `report.json`."""

    requests: int
    teacher_call_rate: float
    escalation_rate: float
    system_accuracy: float | None
    teacher_accuracy: float | None
    student_accuracy: float | None
    agreement: float | None
    joint_risk: float | None
    edge_p50_ms: float
    bytes_shipped: int
    seconds: float


def day_report(
    day: int,
    seen: Sequence[Observation],
    *,
    threshold: float,
    certified: bool,
    bundle: str,
    night_calls: int = 0,
    test_accuracy: float | None = None,
    new_labels: tuple[str, ...] = (),
    withdrawn: bool = False,
) -> DayReport:
    """Sums up one day; `night_calls` are teacher answers bought by that day's night."""
    latencies = [o.answer.latency_ms for o in seen if o.answer.source is Source.STUDENT]
    return DayReport(
        day=day,
        requests=len(seen),
        escalation_rate=_share(seen, _escalated),
        audit_rate=_share(seen, lambda o: o.audited),
        degraded_rate=_share(seen, lambda o: o.answer.degraded),
        teacher_call_rate=(sum(o.asked for o in seen) + night_calls) / max(1, len(seen)),
        system_accuracy=_right(seen, lambda o: o.answer.label),
        student_accuracy=_right(seen, lambda o: o.student),
        teacher_accuracy=_right(seen, lambda o: o.teacher),
        agreement=_agreement(seen),
        joint_risk=_joint_risk(seen),
        kept_rate=_share(seen, kept),
        threshold=threshold if math.isfinite(threshold) else None,
        # A certificate is void while the budget overrides it.
        certified=certified and not any(_over_budget(o) for o in seen),
        certified_rate=_share(seen, lambda o: o.answer.certified),
        bundle=bundle,
        edge_p50_ms=percentile(latencies, 0.50),
        edge_p99_ms=percentile(latencies, 0.99),
        test_accuracy=test_accuracy,
        new_labels=new_labels,
        withdrawn=withdrawn,
    )


def totals(
    seen: Sequence[Observation], *, night_calls: int, bytes_shipped: int, seconds: float
) -> Totals:
    """Sums up the stream."""
    latencies = [o.answer.latency_ms for o in seen if o.answer.source is Source.STUDENT]
    return Totals(
        requests=len(seen),
        teacher_call_rate=(sum(o.asked for o in seen) + night_calls) / max(1, len(seen)),
        escalation_rate=_share(seen, _escalated),
        system_accuracy=_right(seen, lambda o: o.answer.label),
        teacher_accuracy=_right(seen, lambda o: o.teacher),
        student_accuracy=_right(seen, lambda o: o.student),
        agreement=_agreement(seen),
        joint_risk=_joint_risk(seen),
        edge_p50_ms=percentile(latencies, 0.50),
        bytes_shipped=bytes_shipped,
        seconds=round(seconds, 1),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def _escalated(o: Observation) -> bool:
    return o.answer.source is not Source.STUDENT


def kept(o: Observation) -> bool:
    """True if the policy let the student answer, be it only because the budget was spent.

    Not kept is what escalated, and what the student had to answer because nobody else could.
    """
    by_choice = not o.answer.degraded or _over_budget(o)
    return o.answer.source is Source.STUDENT and by_choice


def _over_budget(o: Observation) -> bool:
    return o.answer.reason is Reason.NO_BUDGET


def _share(seen: Sequence[Observation], holds: Callable[[Observation], bool]) -> float:
    return sum(holds(o) for o in seen) / max(1, len(seen))


def _right(seen: Sequence[Observation], label: Callable[[Observation], str]) -> float | None:
    """Share of requests with known gold and known answer that are right."""
    known = [o for o in seen if o.gold and label(o)]
    return sum(label(o) == o.gold for o in known) / len(known) if known else None


def _agreement(seen: Sequence[Observation]) -> float | None:
    known = [o for o in seen if o.teacher]
    return sum(o.answer.label == o.teacher for o in known) / len(known) if known else None


def _joint_risk(seen: Sequence[Observation]) -> float | None:
    """P(kept and different from the teacher): what the contract bounds."""
    known = [o for o in seen if o.teacher]
    wrong = sum(kept(o) and o.answer.label != o.teacher for o in known)
    return wrong / len(known) if known else None
