"""Group commit: rows of many concurrent requests reach the log in one append.

While one append runs in its thread, the next rows collect; each caller is answered when the append
that carried its rows has returned, so an acknowledged row is a durable one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from understudy.cloud.log import EscalationLog, NewRow
from understudy.types.errors import LinkDownError, OverloadedError, UnderstudyError
from understudy.types.records import LoggedRow

_MAX_ROWS = 1024
"""Most rows of one append; bounds how long the log is busy with it."""


class LogWriter:
    """Appends to the log from one event loop."""

    def __init__(self, log: EscalationLog, *, max_queue: int = 16_384) -> None:
        self._log = log
        self._max_queue = max_queue
        self._queue: deque[tuple[Sequence[NewRow], asyncio.Future[list[LoggedRow]]]] = deque()
        self._queued_rows = 0
        self._flusher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._closed = False

    async def append(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        """Rows as they stand in the log, durable.

        Raises:
            OverloadedError: If the log refuses rows for now, or too many wait for it.
            LinkDownError: If the log cannot be reached, or the gateway is stopping.
        """
        if not rows:
            return []
        if self._closed:
            raise LinkDownError("the gateway is stopping; ask another, or again later")
        if self._queued_rows + len(rows) > self._max_queue:
            raise OverloadedError("too many rows wait for the log; come back later", 1.0)
        stored: asyncio.Future[list[LoggedRow]] = asyncio.get_running_loop().create_future()
        self._queue.append((rows, stored))
        self._queued_rows += len(rows)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await stored

    async def close(self) -> None:
        """Writes what waits and ends the thread."""
        self._closed = True
        if self._flusher:
            await self._flusher
        await asyncio.to_thread(self._thread.shutdown)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._take()
            rows = [row for part, _ in batch for row in part]
            try:
                stored = await loop.run_in_executor(self._thread, self._log.append, rows)
            except UnderstudyError as error:
                _fail(batch, error)
            except Exception as error:  # noqa: BLE001 - an adapter's bug must not strand callers
                _fail(batch, LinkDownError(f"the log failed: {error}"))
            else:
                _hand_back(batch, stored)
        self._flusher = None

    def _take(self) -> list[tuple[Sequence[NewRow], asyncio.Future[list[LoggedRow]]]]:
        batch = [self._queue.popleft()]
        count = len(batch[0][0])
        while self._queue and count + len(self._queue[0][0]) <= _MAX_ROWS:
            batch.append(self._queue.popleft())
            count += len(batch[-1][0])
        self._queued_rows -= count
        return batch


def _fail(
    batch: Sequence[tuple[Sequence[NewRow], asyncio.Future[list[LoggedRow]]]],
    error: UnderstudyError,
) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _hand_back(
    batch: Sequence[tuple[Sequence[NewRow], asyncio.Future[list[LoggedRow]]]],
    stored: Sequence[LoggedRow],
) -> None:
    start = 0
    for rows, future in batch:
        if not future.done():
            future.set_result(list(stored[start : start + len(rows)]))
        start += len(rows)
