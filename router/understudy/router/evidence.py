"""What one logged row says about the risk.

A request's label is obtained if it escalated (propensity 1) or its audit coin fell (the audit
rate). Rows count in inverse proportion to that, so that the labelled rows speak for all traffic
whatever threshold was in force. Requests without a label need not be known: they add nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import InvalidValueError
from understudy.types.records import EscalationRecord, LoggedRow

NEVER_KEPT = -1.0
"""The confidence of a row that no threshold keeps: its input was foreign or its score invalid."""


class RowUse(StrEnum):
    """What became of a logged row in a running account."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    WAITING = "waiting"
    """Its label has not come; it may be shown again."""
    UNRELIABLE = "unreliable"
    """The teacher could not be trusted on it."""
    DEGRADED = "degraded"
    """Answered while the teacher was out of reach: outside the contract, counted apart."""
    OTHER_BUNDLE = "other_bundle"
    INCONSISTENT = "inconsistent"
    """No policy writes such a row."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One labelled row, ready to count.

    Attributes:
        confidence: The student's, in [0, 1]; `NEVER_KEPT` where the policy keeps nothing.
        error: True if student and teacher differ.
        weight: The row's share of a full vote, in (0, 1].
        requests: How many requests the row stands for, at least 1.
    """

    confidence: float
    error: bool
    weight: float = 1.0
    requests: float = 1.0

    def __post_init__(self) -> None:
        if not (self.confidence == NEVER_KEPT or 0.0 <= self.confidence <= 1.0):
            raise InvalidValueError(f"confidence must lie in [0, 1], not {self.confidence}")
        if not (0.0 < self.weight <= 1.0 <= self.requests):
            raise InvalidValueError("evidence needs a weight in (0, 1] and stands for a request")

    def wrongly_kept(self, threshold: float) -> bool:
        """True if this row would have been kept at `threshold`, and is an error."""
        return self.error and self.confidence >= threshold


def evidence(record: EscalationRecord, *, error: bool) -> Evidence:
    """Weighs a record.

    The weight is the least propensity the request could have had, over the one it had: fixed by
    threshold and rate before anything was seen, so a bet of that size is fair under any threshold.
    """
    least = 1.0 if record.threshold == NEVER_KEEP else record.audit_rate
    escaped = record.kind is RecordKind.ESCALATION and record.confidence >= record.threshold
    return Evidence(
        confidence=NEVER_KEPT if escaped or not record.top else record.confidence,
        error=error,
        weight=min(1.0, least / record.propensity),
        requests=1.0 / record.propensity,
    )


def is_error(row: LoggedRow) -> bool:
    """True if student and teacher differ, or the label never came."""
    return row.teacher is None or row.teacher.label != row.record.student_label


def is_consistent(record: EscalationRecord) -> bool:
    """Says whether a record can have come from the policy.

    An escalation has propensity 1; an audit has its coin, and the coin's rate as propensity;
    nothing is kept under the threshold. Records that fail are answered but prove nothing.
    """
    match record.kind:
        case RecordKind.ESCALATION:
            return record.propensity == 1.0
        case RecordKind.AUDIT:
            fair = record.propensity == record.audit_rate and record.audit_rate > 0.0
            return record.coin and fair and record.confidence >= record.threshold
        case RecordKind.DEGRADED:
            return True
    assert_never(record.kind)


def use_of(record: EscalationRecord, bundle: str) -> RowUse:
    """Says whether a record may count for `bundle`, its label aside."""
    if record.bundle != bundle:
        return RowUse.OTHER_BUNDLE
    if record.kind is RecordKind.DEGRADED:
        return RowUse.DEGRADED
    if not is_consistent(record) or record.audit_rate <= 0.0:
        return RowUse.INCONSISTENT
    return RowUse.COUNTED
