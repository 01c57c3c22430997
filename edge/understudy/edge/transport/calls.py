"""What both links share: requests out of nouns, nouns out of responses, errors mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from understudy.edge.ports import Enrollment, Outcome, Receipt, ReceiptOutcome, Renewal
from understudy.types.convert import (
    directive_from_wire,
    error_from_status,
    label_from_wire,
    record_to_wire,
    status_to_wire,
)
from understudy.types.errors import (
    InvalidValueError,
    LinkDownError,
    LinkError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus
from understudy.wire.v1 import (
    artifact_pb2,
    enrollment_pb2,
    feedback_pb2,
    fleet_pb2,
    inference_pb2,
)

PUSHBACK = "grpc-retry-pushback-ms"
BLOB_CHUNK_BYTES = 64 << 10
MAX_RETRY_AFTER_S = 3600.0

_RECEIPTS = {
    feedback_pb2.RECORD_OUTCOME_STORED: ReceiptOutcome.STORED,
    feedback_pb2.RECORD_OUTCOME_REFUSED: ReceiptOutcome.REFUSED,
}


def predict_request(record: EscalationRecord) -> inference_pb2.PredictRequest:
    """One record to ask about."""
    return inference_pb2.PredictRequest(record=record_to_wire(record))


def predict_batch_request(
    records: Sequence[EscalationRecord],
) -> inference_pb2.PredictBatchRequest:
    """Many records to ask about."""
    return inference_pb2.PredictBatchRequest(records=[record_to_wire(r) for r in records])


def report_request(records: Sequence[EscalationRecord]) -> feedback_pb2.ReportEscalationsRequest:
    """Records to report."""
    return feedback_pb2.ReportEscalationsRequest(records=[record_to_wire(r) for r in records])


def check_in_request(status: NodeStatus) -> fleet_pb2.CheckInRequest:
    """How the node is."""
    return fleet_pb2.CheckInRequest(status=status_to_wire(status))


def blob_request(sha256: str, offset: int) -> artifact_pb2.ReadBlobRequest:
    """A content-addressed file from an offset on."""
    return artifact_pb2.ReadBlobRequest(sha256=sha256, offset=offset, chunk_bytes=BLOB_CHUNK_BYTES)


def teacher_label(message: Any) -> TeacherLabel:  # noqa: ANN401 - generated messages
    """Reads the teacher's answer.

    Raises:
        TeacherError: If it is no distribution over labels.
    """
    try:
        return label_from_wire(message)
    except InvalidValueError as error:
        raise TeacherError(f"the teacher's answer is no answer: {error}") from error


def outcomes(response: inference_pb2.PredictBatchResponse, expected: int) -> list[Outcome]:
    """One outcome a record; an error is a value here, since its neighbours may be fine.

    Raises:
        TeacherError: If the answer is not one outcome a record.
    """
    if len(response.outcomes) != expected:
        raise TeacherError(f"{len(response.outcomes)} outcomes came back for {expected} records")
    return [_outcome(item) for item in response.outcomes]


def receipts(response: feedback_pb2.ReportEscalationsResponse) -> list[Receipt]:
    """Reads receipts; what an unknown outcome means is safest read as: not now."""
    return [
        Receipt(r.event_id, _RECEIPTS.get(r.outcome, ReceiptOutcome.RETRY), r.message)
        for r in response.receipts
    ]


def directive(response: fleet_pb2.CheckInResponse) -> Directive:
    """Reads what the node should do."""
    return directive_from_wire(response.directive)


def next_chunk(response: artifact_pb2.ReadBlobResponse, position: int) -> bytes:
    """The bytes of one chunk; empty ones only say that the server lives.

    Raises:
        LinkError: If the chunk is not the one that follows.
    """
    if response.data and response.offset != position:
        raise LinkError(f"the server sent offset {response.offset} where {position} follows")
    return response.data


def enrollment(response: enrollment_pb2.EnrollResponse) -> Enrollment:
    """Reads what enrolment gave."""
    return Enrollment(
        response.certificate, response.ca_certificate, response.node, response.trusted_root
    )


def renewal(response: enrollment_pb2.RenewCertificateResponse) -> Renewal:
    """Reads a fresh certificate."""
    return Renewal(response.certificate, response.ca_certificate)


def call_metadata(traceparent: str) -> tuple[tuple[str, str], ...]:
    """The W3C trace context, where the product has one that a header can carry."""
    fits = traceparent.isascii() and traceparent.isprintable()
    return (("traceparent", traceparent),) if traceparent and fits else ()


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns whatever gRPC raises into one of our errors."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error) from error
    except ValueError as error:
        if isinstance(error, UnderstudyError):
            raise
        # "Cannot invoke RPC on closed channel", or a message that protobuf cannot carry.
        raise LinkDownError(f"the link cannot carry this call: {error}") from error


def error_of(error: Any) -> UnderstudyError:  # noqa: ANN401 - RpcError has its methods on subclasses
    """The error of ours behind a failed call."""
    name = error.code().name if error.code() is not None else "UNKNOWN"
    message = f"{name}: {error.details() or 'no details'}"
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        return TeacherError(message)
    wait_s = retry_after_s(dict(error.trailing_metadata() or ()))
    if wait_s > 0 and name == "UNAVAILABLE":
        return OverloadedError(message, wait_s)
    return error_from_status(name, message, wait_s)


def retry_after_s(trailing: Mapping[str, str | bytes]) -> float:
    """Seconds the server asked to wait, 0 when it did not say or spoke nonsense."""
    try:
        wait_s = int(trailing.get(PUSHBACK, 0)) / 1000
    except ValueError:
        return 0.0
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def _outcome(item: inference_pb2.PredictOutcome) -> Outcome:
    if item.WhichOneof("outcome") != "label":
        return TeacherError(item.error or "the cloud gave neither label nor reason")
    try:
        return teacher_label(item.label)
    except TeacherError as error:
        return error
