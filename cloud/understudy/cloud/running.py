"""What a running gateway tells about itself, and how it repeats small chores."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_log = logging.getLogger(__name__)

STATE_FILE = "cloud.json"


@dataclass(frozen=True, slots=True)
class RunningCloud:
    """Where a running gateway is; the content of `cloud.json`.

    Attributes:
        pid: Process id.
        address: `host:port` for nodes with a certificate.
        enroll_address: `host:port` for enrolling.
        operator_address: `host:port` of the operator's HTTP port; empty for none.
        started_unix_s: When.
    """

    pid: int
    address: str
    enroll_address: str
    operator_address: str
    started_unix_s: float


@contextlib.asynccontextmanager
async def repeating(work: Callable[[], Awaitable[None]], every_s: float) -> AsyncIterator[None]:
    """Runs `work` every so often beside the block; a failure is logged and tried again."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await work()
            except Exception:  # noqa: BLE001 - a chore must not die of one failure
                _log.exception("a periodic step failed; it is tried again")

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
