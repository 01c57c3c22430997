"""A gateway as a process or a thread: where it is, how it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from understudy.cloud.app import Gateway, open_gateway
from understudy.cloud.config import CloudConfig
from understudy.cloud.running import STATE_FILE, RunningCloud

_log = logging.getLogger(__name__)


def read_state_file(config: CloudConfig) -> RunningCloud | None:
    """Where the running gateway is; None if none runs here."""
    try:
        running = RunningCloud(**json.loads(config.path(STATE_FILE).read_text()))
        os.kill(running.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return running


def run_gateway(
    config: CloudConfig, on_ready: Callable[[RunningCloud], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        config: The cloud.
        on_ready: Told where it serves, once it does.

    Raises:
        ConfigError: If a person must edit the configuration.
    """

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with open_gateway(config) as gateway:
            _tune_interpreter()
            _log.info("the gateway serves at %s", gateway.running)
            if on_ready is not None and gateway.running is not None:
                on_ready(gateway.running)
            await stop.wait()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop where it is installed; None for Python's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _tune_interpreter() -> None:
    """Leaves what was loaded at the start out of garbage collection, and makes its pauses short.

    A call makes hundreds of short-lived objects and hardly a cycle; with Python's defaults a
    twentieth of the loop's time went into walking modules that live as long as the process. The
    youngest are walked in small lots, a millisecond each: 50,000 at once stopped all answers for
    40 to 85 ms every few seconds. What lives longer is bounded by the caches, and walked rarely.

    A thread that computes, such as the watch over the contract, hands the interpreter over after a
    millisecond, not five: the event loop needs it for every answer.
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 50, 1_000)


@contextlib.contextmanager
def serving(gateway: Gateway) -> Iterator[Gateway]:
    """Runs a gateway in a thread of its own, for callers without an event loop.

    Raises:
        ConfigError: If it cannot start.
    """
    ready: Future[asyncio.AbstractEventLoop] = Future()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve_until(gateway, ready, stop)), name="gateway"
    )
    thread.start()
    try:
        loop = ready.result()
        try:
            yield gateway
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join()


async def _serve_until(
    gateway: Gateway, ready: Future[asyncio.AbstractEventLoop], stop: asyncio.Event
) -> None:
    try:
        await gateway.__aenter__()
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        ready.set_exception(error)
        return
    ready.set_result(asyncio.get_running_loop())
    try:
        await stop.wait()
    finally:
        await gateway.__aexit__()
