"""gRPC on loopback: `understudy.wire.v1.EdgeService`, with the standard health service."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from understudy.edge.aio import AsyncEdgeClient
from understudy.types.answer import Answer
from understudy.types.errors import InvalidValueError
from understudy.wire.v1 import edge_pb2, edge_pb2_grpc, records_pb2

MAX_MESSAGE_BYTES = 4 << 20
SERVICE = "understudy.wire.v1.EdgeService"


class EdgeServicer(edge_pb2_grpc.EdgeServiceServicer):
    """The service around a client."""

    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client

    async def Answer(self, request: Any, context: Any) -> edge_pb2.AnswerResponse:  # noqa: ANN401, N802 - generated names
        """Answers one text."""
        try:
            answer = await self._client.predict(request.text, **_options(request, context))
        except InvalidValueError as error:
            raise await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        return edge_pb2.AnswerResponse(answer=_to_wire(answer))

    async def AnswerBatch(self, request: Any, context: Any) -> edge_pb2.AnswerBatchResponse:  # noqa: ANN401, N802 - generated names
        """Answers texts in their order."""
        try:
            texts = list(request.texts)
            answers = await self._client.predict_many(texts, **_options(request, context))
        except InvalidValueError as error:
            raise await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        return edge_pb2.AnswerBatchResponse(answers=[_to_wire(answer) for answer in answers])


async def start_server(client: AsyncEdgeClient, address: str) -> tuple[grpc.aio.Server, int]:
    """Starts the server; returns it with the port it listens on.

    Raises:
        OSError: If the address is taken.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Two sidecars on one port would share the callers by chance.
            ("grpc.so_reuseport", 0),
        ]
    )
    edge_pb2_grpc.add_EdgeServiceServicer_to_server(EdgeServicer(client), server)
    state = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be listened on") from error
    await server.start()
    for name in ("", SERVICE):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, port


def _options(request: Any, context: Any) -> Any:  # noqa: ANN401 - PredictOptions, checked there
    given = request.options
    options: dict[str, object] = {"never_escalate": given.never_escalate}
    for name in ("deadline_ms", "mode", "subject", "slice_name"):
        if getattr(given, name):
            options[name] = getattr(given, name)
    left_s = context.time_remaining()
    if left_s is not None and "deadline_ms" not in options:
        # The caller's own deadline is a budget, too.
        options["deadline_ms"] = max(1.0, left_s * 1000)
    metadata = dict(context.invocation_metadata() or ())
    if "traceparent" in metadata:
        options["traceparent"] = str(metadata["traceparent"])
    return options


def _to_wire(answer: Answer) -> edge_pb2.Answered:
    reason = records_pb2.Reason.Value(f"REASON_{answer.reason.value.upper()}")
    return edge_pb2.Answered(
        label=answer.label,
        confidence=answer.confidence,
        source=answer.source.value,
        certified=answer.certified,
        degraded=answer.degraded,
        reason=records_pb2.Reason.ValueType(reason),
        bundle=answer.bundle,
        latency_ms=answer.latency_ms,
        scores=[records_pb2.LabelScore(label=n, score=s) for n, s in answer.scores.items()],
        request_id=answer.request_id,
        truncated=answer.truncated,
    )
