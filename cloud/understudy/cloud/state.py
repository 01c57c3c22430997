"""What gateway processes share beside the log: a few small values, changed by compare-and-set.

`SqliteState` serves every process of one machine; `RedisState` several machines.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from understudy.files import create_private
from understudy.types.errors import DataError, LinkDownError


class SharedState(Protocol):
    """Small values by key. Methods block, are thread-safe, and survive a restart."""

    def get(self, key: str) -> bytes | None:
        """The value, or None.

        Raises:
            LinkDownError: If the store cannot be reached.
        """
        ...

    def put(self, key: str, value: bytes) -> None:
        """Sets the value, durable when it returns."""
        ...

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Sets the value if the present one is `expected` (None: absent); tells if it did."""
        ...

    def delete(self, key: str) -> None:
        """Removes the value; an absent one is fine."""
        ...

    def items(self, prefix: str) -> dict[str, bytes]:
        """Every value whose key begins so."""
        ...

    def close(self) -> None:
        """Frees the store; safe to repeat."""
        ...


class SqliteState:
    """Shared state in one SQLite file; see `SharedState`."""

    def __init__(self, path: Path, *, power_safe: bool = True) -> None:
        """Opens or makes the file.

        Args:
            path: The file.
            power_safe: Every change survives a power cut; else only the end of the process, and
                the last moments before a power cut may be lost, but a change costs no sync.

        Raises:
            DataError: If the file is no database.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        create_private(path)
        self._path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=10.0, isolation_level=None, check_same_thread=False
        )
        with self._locked() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB NOT NULL) "
                "STRICT, WITHOUT ROWID"
            )

    def get(self, key: str) -> bytes | None:
        with self._locked() as connection:
            found = connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            return None if found is None else bytes(found[0])

    def put(self, key: str, value: bytes) -> None:
        with self._locked() as connection:
            connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        with self._locked() as connection:
            if expected is None:
                query, values = "INSERT OR IGNORE INTO state VALUES (?, ?)", (key, value)
                return connection.execute(query, values).rowcount == 1
            return (
                connection.execute(
                    "UPDATE state SET value = ? WHERE key = ? AND value = ?",
                    (value, key, expected),
                ).rowcount
                == 1
            )

    def delete(self, key: str) -> None:
        with self._locked() as connection:
            connection.execute("DELETE FROM state WHERE key = ?", (key,))

    def items(self, prefix: str) -> dict[str, bytes]:
        with self._locked() as connection:
            # A range on the primary key; U+10FFFF sorts after every key of ours.
            found = connection.execute(
                "SELECT key, value FROM state WHERE key >= ? AND key < ?",
                (prefix, prefix + "\U0010ffff"),
            )
            return {key: bytes(value) for key, value in found}

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
                raise LinkDownError(f"{self._path} cannot be used: {error}") from error
            except sqlite3.DatabaseError as error:
                raise DataError(f"{self._path} is damaged or not ours: {error}") from error
