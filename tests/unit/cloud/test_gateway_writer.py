"""Group commit: many callers, one append, nobody told before it is durable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from simulators.cloud_gateway import record
from understudy.cloud.gateway.writer import LogWriter
from understudy.cloud.log import NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.types.errors import LinkDownError, OverloadedError
from understudy.types.records import LoggedRow


class GatedLog(SqliteLog):
    """A real log that a test can hold up, and whose appends it can count."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        self.failure: Exception | None = None

    def append(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        self.sizes.append(len(rows))
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        return super().append(rows)


@pytest.fixture
def log(tmp_path: Path) -> GatedLog:
    return GatedLog(tmp_path / "log.db")


def new() -> NewRow:
    return NewRow(record(node="n1"))


def test_rows_that_wait_share_a_commit(log: GatedLog) -> None:
    """One fsync for a hundred requests."""

    async def run() -> None:
        writer = LogWriter(log)
        log.gate.clear()
        first = asyncio.create_task(writer.append([new()]))
        while not log.sizes:  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0)
        others = [asyncio.create_task(writer.append([new(), new()])) for _ in range(10)]
        await asyncio.sleep(0)
        assert not first.done()
        log.gate.set()
        stored = await asyncio.gather(first, *others)
        await writer.close()
        assert [1] + [2] * 10 == [len(rows) for rows in stored]

    asyncio.run(run())
    assert [1, 20] == log.sizes
    assert 21 == log.stats().rows
    log.close()


def test_each_caller_gets_its_own_rows(log: GatedLog) -> None:
    """Mixing them up would answer one node with another's label."""

    async def run() -> None:
        writer = LogWriter(log)
        asked = [[new() for _ in range(size)] for size in (1, 3, 2)]
        stored = await asyncio.gather(*(writer.append(rows) for rows in asked))
        await writer.close()
        assert [[r.record for r in rows] for rows in asked] == [
            [r.record for r in rows] for rows in stored
        ]

    asyncio.run(run())
    log.close()


def test_a_failed_commit_fails_for_its_callers_and_the_next_goes_on(log: GatedLog) -> None:
    """A disk that was full for a second must not end the gateway."""

    async def run() -> None:
        writer = LogWriter(log)
        for failure, expected in (
            (OverloadedError("full"), OverloadedError),
            (ZeroDivisionError(), LinkDownError),
        ):
            log.failure = failure
            with pytest.raises(expected):
                await writer.append([new()])
        log.failure = None
        await writer.append([new()])
        await writer.close()

    asyncio.run(run())
    assert 1 == log.stats().rows
    log.close()


def test_the_queue_is_bounded(log: GatedLog) -> None:
    """A log that hangs must not eat the memory."""

    async def run() -> None:
        writer = LogWriter(log, max_queue=3)
        log.gate.clear()
        waiting = [asyncio.create_task(writer.append([new()]))]
        while not log.sizes:  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0)
        waiting += [asyncio.create_task(writer.append([new()])) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await writer.append([new()])
        log.gate.set()
        await asyncio.gather(*waiting)
        await writer.close()

    asyncio.run(run())
    log.close()


def test_closing_writes_what_waits(log: GatedLog) -> None:
    """A caller that gave up does not take its row with it: the teacher's work is kept."""

    async def run() -> None:
        writer = LogWriter(log)
        log.gate.clear()
        first = asyncio.create_task(writer.append([new()]))
        while not log.sizes:  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0)
        second = asyncio.create_task(writer.append([new()]))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        log.gate.set()
        await writer.close()
        with pytest.raises(LinkDownError):
            await writer.append([new()])

    asyncio.run(run())
    assert 2 == log.stats().rows
    log.close()
