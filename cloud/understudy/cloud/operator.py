"""The operator's HTTP port, in the gateway's process: metrics, health, state, and the console.

Plain HTTP on purpose: it belongs on the loopback address or an inside network, and scrapers and
probes expect it there. Inputs that users typed appear in the console only, redacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from understudy.cloud.config import parse_address
from understudy.cloud.metrics import CONTENT_TYPE
from understudy.types.errors import ConfigError

_STOP_S = 2


def operator_routes(
    *, metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], Awaitable[str]]
) -> list[BaseRoute]:
    """Metrics and the two probes.

    Args:
        metrics: Gives the Prometheus exposition.
        ready: Gives why calls cannot be taken, in one sentence; empty when they can.
    """

    async def show_metrics(_: Request) -> Response:
        return Response(await metrics(), media_type=CONTENT_TYPE)

    async def alive(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def is_ready(_: Request) -> Response:
        trouble = await ready()
        body = {"ready": not trouble, "reason": trouble}
        return JSONResponse(body, status_code=503 if trouble else 200)

    return [
        Route("/metrics", show_metrics),
        Route("/healthz", alive),
        Route("/readyz", is_ready),
    ]


@contextlib.asynccontextmanager
async def serve_operator(address: str, routes: Sequence[BaseRoute]) -> AsyncIterator[str]:
    """Serves beside the block and gives the address, with the port really bound.

    Raises:
        ConfigError: If the address cannot be had.
    """
    host, port = parse_address(address, "operator.address")
    listener = _listen(host, port)
    server = _Server(
        uvicorn.Config(
            Starlette(routes=list(routes)),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_STOP_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


class _Server(uvicorn.Server):
    """Leaves the signals to the gateway, which stops this server itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=_family(host), backlog=128)
    except OSError as error:
        raise ConfigError(
            f"the operator's port cannot listen on {host}:{port}: {error.strerror}; "
            "change operator.address"
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
