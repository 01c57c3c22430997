"""Wire messages to nouns and back: the only module that knows both.

`from_wire` functions raise `InvalidValueError` on a message that is no value of ours; the face that
calls them answers INVALID_ARGUMENT. Status names map to errors in one table for both faces.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from understudy.types.decision import RecordKind
from understudy.types.errors import (
    AccessError,
    BundleError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    LinkError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord, LabelScore, TeacherLabel
from understudy.types.release import Directive, NodeStatus, SliceOrder, UpdateState
from understudy.wire.v1 import fleet_pb2, records_pb2

STATUS_ERRORS: dict[str, type[UnderstudyError]] = {
    "DEADLINE_EXCEEDED": DeadlineError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAVAILABLE": LinkDownError,
    "CANCELLED": LinkError,
    "ABORTED": LinkError,
    "UNAUTHENTICATED": AccessError,
    "PERMISSION_DENIED": AccessError,
    "NOT_FOUND": BundleError,
    "OUT_OF_RANGE": BundleError,
    "DATA_LOSS": BundleError,
    "INVALID_ARGUMENT": InvalidValueError,
    "UNIMPLEMENTED": TeacherError,
    "INTERNAL": TeacherError,
    "UNKNOWN": TeacherError,
    "FAILED_PRECONDITION": TeacherError,
}
"""gRPC status by name, to the error the edge sees. Names, so that `types` needs no grpc."""

ERROR_STATUS: tuple[tuple[type[UnderstudyError], str], ...] = (
    (DeadlineError, "DEADLINE_EXCEEDED"),
    (OverloadedError, "RESOURCE_EXHAUSTED"),
    (LinkError, "UNAVAILABLE"),
    (AccessError, "PERMISSION_DENIED"),
    (BundleError, "NOT_FOUND"),
    (InvalidValueError, "INVALID_ARGUMENT"),
    (TeacherError, "INTERNAL"),
    (UnderstudyError, "INTERNAL"),
)
"""Error to gRPC status by name; the first match counts."""


def error_from_status(name: str, message: str, retry_after_s: float = 0.0) -> UnderstudyError:
    """The error for a gRPC status name; unknown names are the teacher's fault."""
    cls = STATUS_ERRORS.get(name, TeacherError)
    if cls is OverloadedError:
        return OverloadedError(message, retry_after_s)
    return cls(message)


def status_from_error(error: UnderstudyError) -> str:
    """The gRPC status name for an error."""
    return next(name for cls, name in ERROR_STATUS if isinstance(error, cls))


def record_to_wire(record: EscalationRecord) -> records_pb2.EscalationRecord:
    """The node stays behind: the gateway reads it off the certificate."""
    return records_pb2.EscalationRecord(
        event_id=record.event_id,
        task=record.task,
        bundle=record.bundle,
        text=record.text,
        top=[records_pb2.LabelScore(label=t.label, score=t.score) for t in record.top],
        confidence=record.confidence,
        threshold=record.threshold,
        kind=_enum_to_wire(records_pb2.RecordKind, "RECORD_KIND", record.kind),
        coin=record.coin,
        audit_rate=record.audit_rate,
        propensity=record.propensity,
        created_unix_s=record.created_unix_s,
        subject=record.subject,
        slice_name=record.slice_name,
    )


def record_from_wire(message: records_pb2.EscalationRecord, *, node: str = "") -> EscalationRecord:
    """Reads a record; `node` is what the certificate said.

    Raises:
        InvalidValueError: If a field is missing or out of range.
    """
    return EscalationRecord(
        event_id=message.event_id,
        task=message.task,
        bundle=message.bundle,
        text=message.text,
        top=tuple(LabelScore(t.label, t.score) for t in message.top),
        confidence=message.confidence,
        threshold=message.threshold,
        kind=_kind_from_wire(message.kind),
        coin=message.coin,
        audit_rate=message.audit_rate,
        propensity=message.propensity,
        created_unix_s=message.created_unix_s,
        node=node,
        subject=message.subject,
        slice_name=message.slice_name,
    )


def label_to_wire(label: TeacherLabel) -> records_pb2.TeacherLabel:
    """Field by field."""
    return records_pb2.TeacherLabel(
        teacher=label.teacher,
        prompt_hash=label.prompt_hash,
        labels=label.labels,
        log_probs=label.log_probs,
        label_mass=label.label_mass,
        rationale=label.rationale,
    )


def label_from_wire(message: records_pb2.TeacherLabel) -> TeacherLabel:
    """Reads a teacher's answer.

    Raises:
        InvalidValueError: If it is no distribution over labels.
    """
    return TeacherLabel(
        teacher=message.teacher,
        prompt_hash=message.prompt_hash,
        labels=tuple(message.labels),
        log_probs=tuple(message.log_probs),
        label_mass=message.label_mass,
        rationale=message.rationale,
    )


def status_to_wire(status: NodeStatus) -> fleet_pb2.NodeStatus:
    """Field by field; the state by name."""
    plain = _plain(status)
    plain["state"] = _enum_to_wire(fleet_pb2.UpdateState, "UPDATE_STATE", status.state)
    return fleet_pb2.NodeStatus(**plain)


def status_from_wire(message: fleet_pb2.NodeStatus) -> NodeStatus:
    """Reads what a node says of itself; an unknown state counts as idle."""
    plain = {f.name: getattr(message, f.name) for f in fields(NodeStatus)}
    name = _word_of(fleet_pb2.UpdateState, message.state, "UPDATE_STATE_")
    plain["state"] = UpdateState(name) if name in set(UpdateState) else UpdateState.IDLE
    return NodeStatus(**plain)


def directive_to_wire(directive: Directive) -> fleet_pb2.Directive:
    """Field by field, slice by slice."""
    plain = _plain(directive)
    plain["revoked_slices"] = [
        fleet_pb2.SliceOrder(name=s.name, threshold_floor=s.threshold_floor)
        for s in directive.revoked_slices
    ]
    return fleet_pb2.Directive(**plain)


def directive_from_wire(message: fleet_pb2.Directive) -> Directive:
    """Reads what a node should do."""
    plain = {f.name: getattr(message, f.name) for f in fields(Directive)}
    orders = (SliceOrder(s.name, s.threshold_floor) for s in message.revoked_slices)
    return Directive(**plain | {"revoked_slices": tuple(orders)})


def _plain(value: NodeStatus | Directive) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _enum_to_wire(enum: Any, prefix: str, word: str) -> Any:  # noqa: ANN401 - generated enums have no base
    return enum.Value(f"{prefix}_{word.upper()}")


def _kind_from_wire(number: int) -> RecordKind:
    if number not in _KINDS:
        raise InvalidValueError(f"record kind {number} is unknown to this version")
    return _KINDS[number]


def _word_of(enum: Any, number: int, prefix: str) -> str:  # noqa: ANN401 - generated enums have no base
    """The word of a number; empty for one that a newer peer made up."""
    if number not in enum.values():
        return ""
    return str(enum.Name(number)).removeprefix(prefix).lower()


# Every record of every call is looked up here.
_KINDS: dict[int, RecordKind] = {
    number: RecordKind(name.removeprefix("RECORD_KIND_").lower())
    for name, number in records_pb2.RecordKind.items()
    if number
}
