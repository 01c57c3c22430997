"""Both faces around one client, until somebody says stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from understudy.edge.aio import AsyncEdgeClient
from understudy.edge.config import EdgeConfig, load_config
from understudy.edge.tls import is_loopback
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    import grpc.aio
    import uvicorn

GRACE_S = 5.0


class Sidecar:
    """The faces of one client; an asynchronous context manager.

    Attributes:
        http_port: Where HTTP listens once it is entered; -1 when it is off.
        grpc_port: Where gRPC listens once it is entered; -1 when it is off.
    """

    def __init__(self, client: AsyncEdgeClient, config: EdgeConfig) -> None:
        """Stores."""
        self._client, self._config = client, config.sidecar
        self.http_port = self.grpc_port = -1
        self._http: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._rpc: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        try:
            if self._config.http_port >= 0:
                await self._start_http()
            if self._config.grpc_port >= 0:
                await self._start_rpc()
        except BaseException:
            await self._stop()
            raise
        self._client.runtime.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def wait(self) -> None:
        """Waits until the HTTP face ends, or for ever."""
        if self._serving is not None:
            await self._serving
        elif self._rpc is not None:
            await self._rpc.wait_for_termination()

    async def _start_http(self) -> None:
        try:
            import uvicorn

            from understudy.edge.sidecar.http import build_app
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the sidecar's HTTP face needs {error.name}: pip install 'understudy[sidecar]'"
            ) from error
        listener = _listen(self._config.host, self._config.http_port)
        self.http_port = listener.getsockname()[1]
        app = build_app(self._client, loopback=is_loopback(f"{self._config.host}:0"))
        settings = uvicorn.Config(
            app, log_level="warning", lifespan="off", timeout_graceful_shutdown=int(GRACE_S)
        )
        self._http = uvicorn.Server(settings)
        # `_serve` leaves the process's signals alone; they belong to `serve`, or to the product.
        self._serving = asyncio.create_task(self._http._serve([listener]))  # noqa: SLF001 - see above
        while not self._http.started and not self._serving.done():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)

    async def _start_rpc(self) -> None:
        from understudy.edge.sidecar.rpc import start_server

        address = f"{self._config.host}:{self._config.grpc_port}"
        try:
            self._rpc, self.grpc_port = await start_server(self._client, address)
        except OSError as error:
            raise _taken(address, "sidecar.grpc_port") from error

    async def _stop(self) -> None:
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving
        if self._rpc is not None:
            await self._rpc.stop(GRACE_S)


def serve(source: EdgeConfig | Path | str, on_ready: Callable[[Sidecar], None]) -> None:
    """Runs the sidecar until SIGTERM or SIGINT.

    Args:
        source: A configuration, its file, or a bundle's directory.
        on_ready: Told once both faces listen.

    Raises:
        ConfigError: If the configuration is wrong, a port is taken or the extra is missing.
        BundleError: If the student cannot be used.
    """
    config = source if isinstance(source, EdgeConfig) else load_config(source)
    asyncio.run(_serve(config, on_ready))


async def _serve(config: EdgeConfig, on_ready: Callable[[Sidecar], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncEdgeClient.open(config) as client, Sidecar(client, config) as sidecar:
        on_ready(sidecar)
        await stop.wait()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=256)
    except OSError as error:
        raise _taken(f"{host}:{port}", "sidecar.http_port") from error


def _taken(address: str, key: str) -> ConfigError:
    return ConfigError(f"{address} cannot be listened on; set {key} to another port")
