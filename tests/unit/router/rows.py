"""Rows of the log, as tests need them."""

from __future__ import annotations

from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LabelScore, LoggedRow, TeacherLabel

KEY = bytes(range(32))


def label(said: str, mass: float = 1.0, log_prob: float = 0.0) -> TeacherLabel:
    return TeacherLabel("teacher", "prompt", (said,), (log_prob,), label_mass=mass)


def row(
    event_id: str = "1",
    *,
    confidence: float = 0.9,
    threshold: float = 0.5,
    rate: float = 0.1,
    agree: bool | None = True,
    kind: RecordKind | None = None,
    **changes: object,
) -> LoggedRow:
    """A consistent row: an escalation under the threshold, an audit above it."""
    if kind is None:
        kind = RecordKind.AUDIT if confidence >= threshold else RecordKind.ESCALATION
    plain: dict[str, object] = {
        "event_id": event_id,
        "task": "t",
        "bundle": "bundle",
        "text": f"text {event_id}",
        "top": (LabelScore("student", confidence),),
        "confidence": confidence,
        "threshold": threshold,
        "kind": kind,
        "coin": kind is RecordKind.AUDIT,
        "audit_rate": rate,
        "propensity": rate if kind is RecordKind.AUDIT else 1.0,
        "created_unix_s": 0.0,
    }
    teacher = changes.pop("teacher", None)
    if teacher is None and agree is not None:
        teacher = label("student" if agree else "teacher")
    record = EscalationRecord(**{**plain, **changes})  # type: ignore[arg-type]
    return LoggedRow(0, record, teacher, 0.0)  # type: ignore[arg-type]
