"""The awaiting link to the cloud; for the calls on a request's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from understudy.edge.ports import Outcome
from understudy.edge.transport import calls
from understudy.edge.transport.calls import mapped_errors
from understudy.edge.transport.channel import (
    LinkCredentials,
    channel_credentials,
    channel_options,
)
from understudy.types.errors import LinkDownError
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.wire.v1 import inference_pb2_grpc


class AsyncCloudLink:
    """The twin of `CloudLink` for one event loop; its channel belongs to the loop that first calls.

    Reports, check-ins and downloads are the business of the client's threads, which use the
    blocking link also under asyncio.
    """

    def __init__(self, address: str, credentials: LinkCredentials | None = None) -> None:
        """Stores; raises `ConfigError` for a distant address without TLS."""
        channel_credentials(address, credentials)
        self.address = address
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        """Asks the teacher about one record; the cloud logs it under its event id."""
        with mapped_errors():
            response = await inference_pb2_grpc.InferenceServiceStub(self._open()).Predict(
                calls.predict_request(record),
                timeout=timeout_s,
                metadata=calls.call_metadata(traceparent),
            )
        return calls.teacher_label(response.label)

    async def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        """Asks the teacher about many records; one outcome each, same order."""
        with mapped_errors():
            response = await inference_pb2_grpc.InferenceServiceStub(self._open()).PredictBatch(
                calls.predict_batch_request(records),
                timeout=timeout_s,
                metadata=calls.call_metadata(traceparent),
            )
        return calls.outcomes(response, len(records))

    async def close(self) -> None:
        """Ends every call in flight; safe to repeat."""
        self._closed, channel, self._channel = True, self._channel, None
        if channel is not None:
            await channel.close()

    def _open(self) -> Any:  # noqa: ANN401 - the stubs ask for a union of channels
        if self._closed:
            raise LinkDownError("the link is closed")
        if self._channel is None:
            self._channel = _connect(self.address, self._credentials)
        return self._channel


def _connect(address: str, credentials: LinkCredentials | None) -> grpc.aio.Channel:
    tls, options = channel_credentials(address, credentials), channel_options(credentials)
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, tls, options)
