"""Checkpoints run beside the commits, keep the write-ahead log small, and may fail."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.cloud_gateway import label, record, wait_until
from understudy.cloud.log import NewRow
from understudy.cloud.log import sqlite as sqlite_log
from understudy.cloud.log.checkpoint import Checkpointer
from understudy.cloud.log.sqlite import SqliteLog
from understudy.types.errors import LinkDownError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteLog]:
    monkeypatch.setattr(sqlite_log, "_CHECKPOINT_ROWS", 50)
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def rows_in_database(path: Path) -> int:
    """Rows that are in the file itself: what a reader sees who ignores the write-ahead log."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    # Without its log beside it, the copy holds exactly what a checkpoint has moved.
    connection = sqlite3.connect(f"file:{copy}?immutable=1", uri=True)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0])
    except sqlite3.DatabaseError:
        return 0
    finally:
        connection.close()


def test_rows_reach_the_database_without_anybody_closing_it(log: SqliteLog, tmp_path: Path) -> None:
    """A gateway runs for months; its write-ahead log must not grow as long."""
    for _ in range(6):
        log.append([NewRow(record(node="n1"), label()) for _ in range(10)])

    wait_until(lambda: rows_in_database(tmp_path / "log.db") >= 50)


def test_the_write_ahead_log_begins_at_its_front_again(log: SqliteLog, tmp_path: Path) -> None:
    """Twenty checkpoints' worth of rows must not need twenty times the room."""
    wal = tmp_path / "log.db-wal"
    sizes = []
    for turn in range(1, 21):
        for _ in range(5):
            log.append([NewRow(record(node="n1"), label()) for _ in range(10)])
        wait_until(lambda turn=turn: rows_in_database(tmp_path / "log.db") >= 50 * turn)  # type: ignore[misc]
        sizes.append(wal.stat().st_size)

    assert sizes[-1] < 3 * sizes[0]


def test_no_commit_checkpoints_by_itself(tmp_path: Path) -> None:
    """SQLite would, in the middle of the commit that somebody waits for."""
    log = SqliteLog(tmp_path / "log.db")
    big = "word " * 4000
    for _ in range(30):
        log.append([NewRow(record(node="n1", text=big), label()) for _ in range(10)])
    found = rows_in_database(tmp_path / "log.db")
    log.close()

    assert 0 == found


def test_a_checkpoint_that_fails_is_tried_again(tmp_path: Path) -> None:
    """The rows are durable either way."""
    attempts: list[int] = []

    def connect() -> sqlite3.Connection:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise LinkDownError("the disk is away")
        return sqlite3.connect(tmp_path / "any.db")

    checkpointer = Checkpointer(connect, threading.Lock(), every_rows=2)
    checkpointer.wrote(1)
    assert [] == attempts
    checkpointer.wrote(1)
    wait_until(lambda: len(attempts) == 1)
    checkpointer.wrote(2)
    wait_until(lambda: len(attempts) == 2)
    checkpointer.close()
    checkpointer.wrote(2)
    checkpointer.close()

    assert 2 == len(attempts)
