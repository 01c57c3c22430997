"""A far side with a real gRPC server on a real socket; a test changes its behaviour at will."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from understudy.types.convert import (
    directive_to_wire,
    label_to_wire,
    record_from_wire,
    status_from_wire,
)
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus
from understudy.wire.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

Fault = Callable[[grpc.ServicerContext], None]


def refuse_with(
    code: grpc.StatusCode, message: str = "as asked", pushback_ms: int | None = None
) -> Fault:
    """Ends every call with a status, and with push-back where given."""

    def fault(context: grpc.ServicerContext) -> None:
        if pushback_ms is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback_ms)),))
        context.abort(code, message)

    return fault


def answer_after(seconds: float) -> Fault:
    """Answers late; gives up when the caller has gone."""

    def fault(context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(seconds)

    return fault


class EdgeGateway:
    """Every service a node talks to; state is plain attributes that tests read and set.

    Attributes:
        label: What the teacher answers.
        fault: Called at the start of each call; may abort it or take its time.
        stored: Records by event id, as a server with deduplication keeps them.
        deliveries: How often each event id arrived.
        outcome: What becomes of a reported record, by event id; stored when it has no entry.
        directive: What a check-in answers.
        blobs: Bytes by sha256 for ReadBlob.
        metadata: Call metadata seen last, by method.
    """

    def __init__(
        self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0"
    ) -> None:
        self.label = TeacherLabel("sim", "hash", ("refund", "card"), (-0.1, -2.4))
        self.fault: Fault | None = None
        self.stored: dict[str, EscalationRecord] = {}
        self.deliveries: dict[str, int] = {}
        self.outcome: dict[str, int] = {}
        self.statuses: list[NodeStatus] = []
        self.directive = Directive()
        self.blobs: dict[str, bytes] = {}
        self.roles: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str | bytes]] = {}
        self.on_blob: Callable[[int], None] | None = None
        self.lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._register()
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"localhost:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0).wait()

    def _register(self) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(_Inference(self), self._server)
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(_Feedback(self), self._server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(_Artifacts(self), self._server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(_Fleet(self), self._server)
        enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(_Enrollment(self), self._server)

    def begin(self, method: str, context: Any) -> None:
        """Notes the call's metadata and plays the fault."""
        self.metadata[method] = dict(context.invocation_metadata())
        if self.fault is not None:
            self.fault(context)

    def store(self, record: EscalationRecord) -> None:
        """Keeps a record once, and counts how often it came."""
        with self.lock:
            self.stored.setdefault(record.event_id, record)
            self.deliveries[record.event_id] = self.deliveries.get(record.event_id, 0) + 1


class _Inference(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, sim: EdgeGateway) -> None:
        self.sim = sim

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("Predict", context)
        self.sim.store(record_from_wire(request.record, node="n1"))
        return inference_pb2.PredictResponse(label=label_to_wire(self.sim.label))

    def PredictBatch(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("PredictBatch", context)
        outcomes = []
        for record in request.records:
            self.sim.store(record_from_wire(record, node="n1"))
            if record.event_id in self.sim.outcome:
                outcomes.append(inference_pb2.PredictOutcome(error="not this one"))
            else:
                outcomes.append(inference_pb2.PredictOutcome(label=label_to_wire(self.sim.label)))
        return inference_pb2.PredictBatchResponse(outcomes=outcomes)


class _Feedback(feedback_pb2_grpc.FeedbackServiceServicer):
    def __init__(self, sim: EdgeGateway) -> None:
        self.sim = sim

    def ReportEscalations(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("ReportEscalations", context)
        receipts = []
        for message in request.records:
            outcome = self.sim.outcome.get(message.event_id, feedback_pb2.RECORD_OUTCOME_STORED)
            if outcome == feedback_pb2.RECORD_OUTCOME_STORED:
                self.sim.store(record_from_wire(message, node="n1"))
            receipts.append(
                feedback_pb2.RecordReceipt(event_id=message.event_id, outcome=outcome)  # type: ignore[arg-type] # any number on purpose
            )
        return feedback_pb2.ReportEscalationsResponse(receipts=receipts)


class _Artifacts(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, sim: EdgeGateway) -> None:
        self.sim = sim

    def GetMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("GetMetadata", context)
        if request.name not in self.sim.roles:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name}")
        return artifact_pb2.GetMetadataResponse(data=self.sim.roles[request.name])

    def ReadBlob(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the wire's name
        self.sim.begin("ReadBlob", context)
        if request.sha256 not in self.sim.blobs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no blob {request.sha256}")
        data = self.sim.blobs[request.sha256]
        if request.offset > len(data):
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "beyond its end")
        for start in range(request.offset, len(data), request.chunk_bytes):
            if self.sim.on_blob is not None:
                self.sim.on_blob(start)
            chunk = data[start : start + request.chunk_bytes]
            yield artifact_pb2.ReadBlobResponse(offset=start, data=chunk, total_size=len(data))


class _Fleet(fleet_pb2_grpc.FleetServiceServicer):
    def __init__(self, sim: EdgeGateway) -> None:
        self.sim = sim

    def CheckIn(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("CheckIn", context)
        self.sim.statuses.append(status_from_wire(request.status))
        return fleet_pb2.CheckInResponse(directive=directive_to_wire(self.sim.directive))


class _Enrollment(enrollment_pb2_grpc.EnrollmentServiceServicer):
    def __init__(self, sim: EdgeGateway) -> None:
        self.sim = sim

    def Enroll(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("Enroll", context)
        return enrollment_pb2.EnrollResponse(
            certificate=b"cert of " + request.certificate_request,
            ca_certificate=b"ca",
            node=f"node-{request.token}",
            trusted_root=b"{}",
        )

    def RenewCertificate(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        self.sim.begin("RenewCertificate", context)
        return enrollment_pb2.RenewCertificateResponse(
            certificate=b"new cert of " + request.certificate_request, ca_certificate=b"ca"
        )


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits for a condition of another thread or process; fails the test when it never comes."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        threading.Event().wait(0.005)
