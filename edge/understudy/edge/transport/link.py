"""The blocking link to the cloud."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from understudy.edge.ports import Enrollment, Outcome, Receipt, Renewal
from understudy.edge.transport import calls
from understudy.edge.transport.calls import mapped_errors
from understudy.edge.transport.channel import (
    LinkCredentials,
    channel_credentials,
    channel_options,
)
from understudy.types.errors import LinkDownError
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus
from understudy.wire.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2_grpc,
)


class CloudLink:
    """A channel to one gateway; thread-safe, connects at the first call.

    Every method raises only errors of `types.errors`, and ends within its `timeout_s`. After a
    fork, throw the link away and build another: a channel does not survive in the child.
    """

    def __init__(self, address: str, credentials: LinkCredentials | None = None) -> None:
        """Stores; raises `ConfigError` for a distant address without TLS."""
        channel_credentials(address, credentials)
        self.address = address
        self._credentials = credentials
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closed = False

    def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        """Asks the teacher about one record; the cloud logs it under its event id."""
        with mapped_errors():
            response = inference_pb2_grpc.InferenceServiceStub(self._open()).Predict(
                calls.predict_request(record),
                timeout=timeout_s,
                metadata=calls.call_metadata(traceparent),
            )
        return calls.teacher_label(response.label)

    def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        """Asks the teacher about many records; one outcome each, same order."""
        with mapped_errors():
            response = inference_pb2_grpc.InferenceServiceStub(self._open()).PredictBatch(
                calls.predict_batch_request(records),
                timeout=timeout_s,
                metadata=calls.call_metadata(traceparent),
            )
        return calls.outcomes(response, len(records))

    def report(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Receipt]:
        """Reports records; what has no receipt was not taken."""
        with mapped_errors():
            response = feedback_pb2_grpc.FeedbackServiceStub(self._open()).ReportEscalations(
                calls.report_request(records),
                timeout=timeout_s,
                compression=grpc.Compression.Gzip,
            )
        return calls.receipts(response)

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        """Tells how the node is and hears what to do."""
        with mapped_errors():
            response = fleet_pb2_grpc.FleetServiceStub(self._open()).CheckIn(
                calls.check_in_request(status), timeout=timeout_s
            )
        return calls.directive(response)

    def metadata(self, name: str, timeout_s: float) -> bytes:
        """The bytes of one TUF metadata file, such as `timestamp.json`."""
        with mapped_errors():
            response = artifact_pb2_grpc.ArtifactServiceStub(self._open()).GetMetadata(
                artifact_pb2.GetMetadataRequest(name=name), timeout=timeout_s
            )
        return bytes(response.data)

    def blob(self, sha256: str, offset: int, timeout_s: float) -> Iterator[bytes]:
        """Yields a content-addressed file from `offset` on, unverified, in order, without gaps.

        Closing the iterator early cancels the call.
        """
        with mapped_errors():
            stream = artifact_pb2_grpc.ArtifactServiceStub(self._open()).ReadBlob(
                calls.blob_request(sha256, offset), timeout=timeout_s
            )
            try:
                for response in stream:
                    data = calls.next_chunk(response, offset)
                    offset += len(data)
                    if data:
                        yield data
            finally:
                stream.cancel()

    def enroll(self, token: str, certificate_request: bytes, timeout_s: float) -> Enrollment:
        """Trades a one-time token and a certificate request (PEM) for a certificate."""
        request = enrollment_pb2.EnrollRequest(token=token, certificate_request=certificate_request)
        with mapped_errors():
            stub = enrollment_pb2_grpc.EnrollmentServiceStub(self._open())
            return calls.enrollment(stub.Enroll(request, timeout=timeout_s))

    def renew(self, certificate_request: bytes, timeout_s: float) -> Renewal:
        """Trades the current certificate and a request (PEM) for a fresh one."""
        request = enrollment_pb2.RenewCertificateRequest(certificate_request=certificate_request)
        with mapped_errors():
            stub = enrollment_pb2_grpc.EnrollmentServiceStub(self._open())
            return calls.renewal(stub.RenewCertificate(request, timeout=timeout_s))

    def close(self) -> None:
        """Ends every call in flight; safe to repeat."""
        with self._lock:
            self._closed, channel, self._channel = True, self._channel, None
        if channel is not None:
            channel.close()

    def _open(self) -> Any:  # noqa: ANN401 - the stubs ask for a union of channels
        with self._lock:
            if self._closed:
                raise LinkDownError("the link is closed")
            if self._channel is None:
                self._channel = _connect(self.address, self._credentials)
            return self._channel


def _connect(address: str, credentials: LinkCredentials | None) -> grpc.Channel:
    tls, options = channel_credentials(address, credentials), channel_options(credentials)
    if tls is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, tls, options)
