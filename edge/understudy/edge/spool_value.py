"""What a waiting record is worth: when memory or disk is full, the least valuable leaves first.

Audited rows are the certificate's evidence: they come last, and all count alike, since a sample
that loses its easy rows first is no sample. Then come questions that the teacher was asked, then
answers given without it; among these the student's doubt decides.
"""

from __future__ import annotations

from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord

AUDIT = 1_000_000
"""The value of every audited row."""
_KINDS = {RecordKind.AUDIT: AUDIT, RecordKind.ESCALATION: 10_000, RecordKind.DEGRADED: 0}


def value_of(record: EscalationRecord) -> int:
    """The value of a record; higher stays longer."""
    if record.coin or record.kind is RecordKind.AUDIT:
        return AUDIT
    return _KINDS[record.kind] + int(1000 * (1.0 - record.confidence))
