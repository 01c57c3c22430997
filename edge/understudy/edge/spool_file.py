"""One SQLite file of waiting records: bounded, each event once, the most valuable kept longest.

One connection, one process: write-ahead logging with several connections has a bug in the SQLite
versions that ship with Python 3.11, and handles must not cross a fork. `Spool` sees to both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from understudy.edge.config import Durability, SpoolConfig
from understudy.edge.spool_value import AUDIT
from understudy.edge.workers import leak

_SCHEMA = """
CREATE TABLE IF NOT EXISTS q (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kept REAL NOT NULL, prio INTEGER NOT NULL,
  size INTEGER NOT NULL, subject TEXT NOT NULL, not_before REAL NOT NULL DEFAULT 0,
  payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_value ON q (prio, id);
"""
_COLUMNS = "key, kept, prio, size, subject, payload"
_MAX_PUT_OFF_S = 7200.0
_SPARE_PAGES = 256
_NO_CLOCK_S = 950_000_000.0
"""Early in 2000: clocks that were never set begin in 1970, 1980 or 2000."""
_MAX_AHEAD_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Row:
    """One waiting record.

    Attributes:
        key: Event id.
        kept: When it was spooled, seconds since 1970.
        prio: Value; the lowest leave first.
        size: Bytes it is accounted with.
        subject: Tag for `forget`; empty when there is none.
        payload: The record, as `spool_codec` writes it.
    """

    key: str
    kept: float
    prio: int
    size: int
    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows that were given up, and how many of them were audits."""

    rows: int = 0
    audits: int = 0


class SpoolFile:
    """An open file; every method may raise `sqlite3.Error`, after which nothing has changed.

    Args:
        path: The file, made when missing; None keeps everything in memory.
        config: The bounds.
    """

    def __init__(self, path: Path | None, config: SpoolConfig) -> None:
        self._config = config
        self._db = sqlite3.connect(
            ":memory:" if path is None else path,
            isolation_level=None,
            check_same_thread=False,
            timeout=0.05,
        )
        try:
            self._prepare()
            self.rows, self.bytes = self._measure()
        except BaseException:
            self._db.close()
            raise

    def put(self, rows: Iterable[Row]) -> Gone:
        """Adds rows, each key once, then evicts what exceeds the bounds."""
        with self._transaction():
            for row in rows:
                values = (row.key, row.kept, row.prio, row.size, row.subject, row.payload)
                added = self._db.execute(
                    f"INSERT OR IGNORE INTO q ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                    values,
                ).rowcount
                self.rows += added
                self.bytes += added * row.size
            evicted = self._evict()
        self._tidy()
        return evicted

    def take(self, rows: int, size: int, now: float) -> list[Row]:
        """The oldest rows that are due, within both limits, at least one if any is due."""
        # A date far ahead was written by a clock that has been set back since.
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM q WHERE not_before <= ? OR not_before > ? "  # noqa: S608 - a constant
            "ORDER BY id LIMIT ?",
            (now, now + _MAX_PUT_OFF_S, rows),
        )
        taken: list[Row] = []
        for values in found:
            row = Row(*values)
            size -= row.size
            if taken and size < 0:
                break
            taken.append(row)
        found.close()
        return taken

    def all(self) -> Iterator[Row]:
        """Every row, oldest first."""
        return (Row(*values) for values in self._db.execute(f"SELECT {_COLUMNS} FROM q"))  # noqa: S608 - a constant

    def delete(self, keys: Sequence[str]) -> int:
        """Removes rows by key; returns how many were there."""
        return self._delete("key = ?", [(key,) for key in keys])

    def delete_subject(self, subject: str) -> int:
        """Removes the rows about a subject; returns how many."""
        return self._delete("subject = ?", [(subject,)])

    def delete_before(self, kept: float) -> Gone:
        """Removes rows that were spooled earlier."""
        audits = self._count("kept < ? AND prio >= ?", (kept, AUDIT))
        return Gone(self._delete("kept < ?", [(kept,)]), audits)

    def restamp(self, now: float) -> None:
        """Takes rows whose date cannot be true for new ones: a wrong clock wrote them."""
        with self._transaction():
            self._db.execute(
                "UPDATE q SET kept = ? WHERE kept < ? OR kept > ?",
                (now, _NO_CLOCK_S, now + _MAX_AHEAD_S),
            )

    def content(self) -> Gone:
        """What would be lost with this file."""
        return Gone(self.rows, self._count("prio >= ?", (AUDIT,)))

    def put_off(self, keys: Sequence[str], until: float) -> int:
        """Does not give rows out before a time; returns how many were there."""
        before = self._db.total_changes
        with self._transaction():
            self._db.executemany(
                "UPDATE q SET not_before = ? WHERE key = ?", [(until, key) for key in keys]
            )
        return self._db.total_changes - before

    def close(self) -> None:
        """Closes the file; safe to repeat."""
        self._db.close()

    def abandon(self) -> None:
        """Leaves the connection to the parent; closing it here would checkpoint its log."""
        leak(self._db)

    def _prepare(self) -> None:
        full = self._config.durability is Durability.POWER
        for pragma in (
            "auto_vacuum = INCREMENTAL",
            # No shared memory file, and nobody else: the lock beside the file has been taken.
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if full else 'NORMAL'}",
            "wal_autocheckpoint = 200",
            "journal_size_limit = 4194304",
            "cell_size_check = ON",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def _measure(self) -> tuple[int, int]:
        rows, size = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM q").fetchone()
        return int(rows), int(size)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self.rows, self.bytes
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self.rows, self.bytes = before
            raise

    def _count(self, condition: str, values: tuple[object, ...]) -> int:
        query = f"SELECT count(*) FROM q WHERE {condition}"  # noqa: S608 - a constant
        (count,) = self._db.execute(query, values).fetchone()
        return int(count)

    def _evict(self) -> Gone:
        victims: list[tuple[object]] = []
        audits, rows, size = 0, self.rows, self.bytes
        by_value = self._db.execute("SELECT key, size, prio FROM q ORDER BY prio, id")
        for key, row_size, prio in by_value:
            if rows <= self._config.max_rows and size <= self._config.max_bytes:
                break
            victims.append((key,))
            rows, size = rows - 1, size - row_size
            audits += prio >= AUDIT
        by_value.close()
        self._remove("key = ?", victims)
        return Gone(len(victims), audits)

    def _delete(self, condition: str, values: Sequence[tuple[object]]) -> int:
        with self._transaction():
            removed = self._remove(condition, values)
        self._tidy()
        return removed

    def _remove(self, condition: str, values: Sequence[tuple[object]]) -> int:
        removed = 0
        for value in values:
            found = self._db.execute(
                f"DELETE FROM q WHERE {condition} RETURNING size",  # noqa: S608 - a constant
                value,
            ).fetchall()
            removed += len(found)
            self.bytes -= sum(size for (size,) in found)
        self.rows -= removed
        return removed

    def _tidy(self) -> None:
        """Gives pages back to the file system once a fair number is free."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > _SPARE_PAGES:
            self._db.execute(f"PRAGMA incremental_vacuum({_SPARE_PAGES})").fetchall()
