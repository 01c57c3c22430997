"""How gateway processes tell each other what nodes used: reports that live for a minute.

Nothing here is durable: who misses a report lets a node use a little more, once.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from understudy.cloud.quotas import Usage
from understudy.cloud.redis_server import RedisServer
from understudy.files import create_private
from understudy.types.errors import LinkDownError, UnderstudyError

_log = logging.getLogger(__name__)

_LIFE_S = 60.0
_MAX_REPORTS = 1024


class UsageBoard(Protocol):
    """Where reports are pinned. Methods block and are thread-safe."""

    def post(self, report: bytes) -> None:
        """Shows a report to all other processes.

        Raises:
            LinkError: If the board cannot be reached, or takes nothing for now.
        """
        ...

    def read(self) -> list[bytes]:
        """What others posted since the last time, oldest first; the first time: nothing.

        Raises:
            LinkError: If the board cannot be reached.
        """
        ...

    def close(self) -> None:
        """Frees the board; safe to repeat."""
        ...


class FileBoard:
    """A board for the processes of one machine: an SQLite file that never waits for the disk."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Opens or makes the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        create_private(path)
        self._path = path
        self._now = now
        self._me = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=2.0, isolation_level=None, check_same_thread=False
        )
        with self._locked() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS reports (id INTEGER PRIMARY KEY AUTOINCREMENT, "
                "process TEXT NOT NULL, posted_unix_s REAL NOT NULL, report BLOB NOT NULL) STRICT"
            )
            (self._seen,) = connection.execute(
                "SELECT COALESCE(MAX(id), 0) FROM reports"
            ).fetchone()

    def post(self, report: bytes) -> None:
        now = self._now()
        with self._locked() as connection:
            connection.execute(
                "INSERT INTO reports (process, posted_unix_s, report) VALUES (?, ?, ?)",
                (self._me, now, report),
            )
            connection.execute("DELETE FROM reports WHERE posted_unix_s < ?", (now - _LIFE_S,))

    def read(self) -> list[bytes]:
        with self._locked() as connection:
            found = connection.execute(
                "SELECT id, process, report FROM reports WHERE id > ? ORDER BY id", (self._seen,)
            ).fetchall()
        self._seen = found[-1][0] if found else self._seen
        return [bytes(report) for _, process, report in found if process != self._me]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise LinkDownError(f"{self._path} cannot be used: {error}") from error


class RedisBoard:
    """A board for processes of several machines: a short stream beside the log."""

    def __init__(self, url: str, *, tenant: str) -> None:
        """Connects when first used.

        Raises:
            ConfigError: If the client library is missing or the URL is none.
        """
        self._server = RedisServer(url)
        self._key = f"{{understudy:{tenant}}}:usage"
        self._me = secrets.token_hex(8).encode()
        self._seen: bytes | None = None

    def post(self, report: bytes) -> None:
        with self._server.errors():
            entry = {"process": self._me, "report": report}
            self._server.client.xadd(self._key, entry, maxlen=_MAX_REPORTS, approximate=True)
            self._server.client.pexpire(self._key, int(_LIFE_S * 1000))

    def read(self) -> list[bytes]:
        with self._server.errors():
            if self._seen is None:
                newest = self._server.client.xrevrange(self._key, count=1)
                self._seen = newest[0][0] if newest else b"0-0"
                return []
            after = b"(" + self._seen
            found = self._server.client.xrange(self._key, min=after, count=_MAX_REPORTS)
        self._seen = found[-1][0] if found else self._seen
        return [entry[b"report"] for _, entry in found if entry[b"process"] != self._me]

    def close(self) -> None:
        self._server.close()


class UsageExchange:
    """One process's side of the board; while that is away, each process counts for itself."""

    def __init__(self, board: UsageBoard) -> None:
        self._board = board
        self._away = False

    def step(self, used: dict[str, Usage]) -> dict[str, Usage]:
        """Tells what was used here, and returns what was used elsewhere; blocks."""
        try:
            if used:
                self._board.post(msgspec.json.encode(used))
            reports = self._board.read()
        except UnderstudyError as error:
            if not self._away:
                _log.warning("quotas are counted by each process for itself: %s", error)
            self._away = True
            return {}
        self._away = False
        return add_up(reports)


def add_up(reports: list[bytes]) -> dict[str, Usage]:
    """What nodes used by all reports together; one that cannot be read counts as none."""
    total: dict[str, Usage] = {}
    for report in reports:
        try:
            read = msgspec.json.decode(report, type=dict[str, Usage])
        except msgspec.MsgspecError as error:
            _log.warning("a report of another gateway cannot be read: %s", error)
            continue
        for node, usage in read.items():
            total[node] = total.get(node, Usage()) + usage
    return total
