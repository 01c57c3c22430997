"""What every call passes on its way in: each concern one layer, composed into one interceptor.

A layer wraps the handler of a method once; after that a call costs a function call per layer.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from understudy.cloud.gateway.caller import Doorkeeper, current_caller
from understudy.cloud.gateway.connections import Cutter
from understudy.cloud.gateway.faults import NoSuchYetError, refuse, status_of
from understudy.cloud.gateway.ports import Context, Observer
from understudy.cloud.quotas import QuotaError, Quotas
from understudy.cloud.tracing import Tracing
from understudy.types.errors import InvalidValueError

Handler = Callable[[Any, Context], Awaitable[Any]]
"""Bytes of the request (for client streams, iterator of requests) and context in, response out."""

OPEN_METHODS = frozenset(
    {
        "/understudy.wire.v1.EnrollmentService/Enroll",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
"""What may be called without a node's certificate."""


class Layer(Protocol):
    """One concern of every call."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler with this concern around it; `method` is `/package.Service/Name`."""
        ...


class Faults:
    """Turns whatever a handler raises into the right status, and counts how calls end."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def wrap(self, method: str, handler: Handler) -> Handler:
        name, observer = method.rpartition("/")[2], self._observer

        async def guarded(request: Any, context: Context) -> Any:  # noqa: ANN401
            started_s, code = time.perf_counter(), "CANCELLED"
            try:
                response = await handler(request, context)
                code = "OK"
                return response  # noqa: TRY300 - only the return belongs to success
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as error:  # noqa: BLE001 - every failure needs a status
                code = status_of(error).name
                if not isinstance(error, NoSuchYetError):
                    observer.refused(error)
                await refuse(context, error)
            finally:
                observer.called(name, code, time.perf_counter() - started_s)

        return guarded


class Traces:
    """Opens a span around each call, child of the node's."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def wrap(self, method: str, handler: Handler) -> Handler:
        async def traced(request: Any, context: Context) -> Any:  # noqa: ANN401
            pairs = context.invocation_metadata() or ()
            metadata = {key: value for key, value in pairs if isinstance(value, str)}
            with self._tracing.call(method, metadata) as ended:
                try:
                    response = await handler(request, context)
                except Exception as error:
                    ended(status_of(error).name)
                    raise
                ended("OK")
                return response

        return traced


class Access:
    """Lets nodes in by their certificate."""

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper

    def wrap(self, method: str, handler: Handler) -> Handler:
        if method in OPEN_METHODS:
            return handler
        admit = self._doorkeeper.admit

        async def admitted(request: Any, context: Context) -> Any:  # noqa: ANN401
            admit(context)
            return await handler(request, context)

        return admitted


class Limits:
    """Charges calls and bytes to the node that makes them; a message may be only so large."""

    def __init__(self, quotas: Quotas, observer: Observer, max_message_bytes: int) -> None:
        self._quotas = quotas
        self._observer = observer
        self._max_bytes = max_message_bytes
        self._cutter = Cutter()

    def wrap(self, method: str, handler: Handler) -> Handler:
        if method in OPEN_METHODS:
            return handler
        quotas = self._quotas

        async def limited(request: Any, context: Context) -> Any:  # noqa: ANN401
            node = current_caller().node
            size = len(request) if isinstance(request, bytes) else 0
            try:
                quotas.spend_request(node, size)
                self._check_size(size)
                return await handler(request, context)
            except QuotaError:
                await self._hold(context, quotas.hold_s(node))
                raise

        return limited

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise InvalidValueError(
                f"the message has {size} bytes; at most {self._max_bytes} are taken, "
                "send fewer records or shorter texts"
            )

    async def _hold(self, context: Context, hold_s: float) -> None:
        """Keeps a refusal back; who does not wait for its refusals loses its connection."""
        if math.isfinite(hold_s):
            await asyncio.sleep(hold_s)
        elif self._cutter.cut(context.peer()):
            self._observer.cut()


class Layers(grpc.aio.ServerInterceptor):
    """The layers as one interceptor, outermost first."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The wrapped handler; made at the first call of a method."""
        method = handler_call_details.method
        if (wrapped := self._wrapped.get(method)) is not None:
            return wrapped
        found = await continuation(handler_call_details)
        if found is not None:
            self._wrapped[method] = self._wrap(method, found)
        return self._wrapped.get(method)

    def _wrap(
        self, method: str, found: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = _as_handler(found)
        read = found.request_deserializer
        if not found.request_streaming and read is not None:
            handler, read = _reading(handler, read), None
        for layer in reversed(self._layers):
            handler = layer.wrap(method, handler)
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[found.request_streaming, found.response_streaming]
        return make(
            handler,
            request_deserializer=read,
            response_serializer=found.response_serializer,
        )


def _reading(handler: Handler, read: Callable[[bytes], Any]) -> Handler:
    """The handler with its message read inside the layers: grpc calls a malformed one UNKNOWN."""

    async def reading(data: bytes, context: Context) -> Any:  # noqa: ANN401
        try:
            request = read(data)
        except DecodeError as error:
            raise InvalidValueError(
                f"the message cannot be read, send one of this version's: {error}"
            ) from error
        return await handler(request, context)

    return reading


def _as_handler(found: grpc.RpcMethodHandler[Any, Any]) -> Handler:
    """One shape for all four kinds: streamed responses are written through the context."""
    # grpc's types know the blocking server's handlers only, so here they are anything.
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    original: Any = next(filter(None, (getattr(found, kind) for kind in kinds)))
    if not inspect.isasyncgenfunction(original):
        plain: Handler = original
        return plain
    generator: Callable[[Any, Context], AsyncIterator[Any]] = original

    async def streamed(request: Any, context: Context) -> None:  # noqa: ANN401
        async for response in generator(request, context):
            await context.write(response)

    return streamed
