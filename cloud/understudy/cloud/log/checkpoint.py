"""Moves what SQLite's write-ahead log holds into the database, beside the commits.

Left to itself, SQLite does that inside every commit that finds a thousand pages: whoever waits for
that commit waits for two more fsyncs and for megabytes. Here a thread of its own does it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable

from understudy.types.errors import UnderstudyError

_log = logging.getLogger(__name__)


class Checkpointer:
    """A thread that checkpoints after so many rows; commits go on meanwhile."""

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], writing: threading.Lock, *, every_rows: int
    ) -> None:
        """Takes the lock that the process's commits hold; the thread starts when first needed."""
        self._connect = connect
        self._writing = writing
        self._every_rows = every_rows
        self._rows = 0
        self._due = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def wrote(self, rows: int) -> None:
        """Counts rows that were committed; called with the writing lock held."""
        self._rows += rows
        if self._rows < self._every_rows or self._closed:
            return
        self._rows = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-checkpoint", daemon=True)
            self._thread.start()
        self._due.set()

    def close(self) -> None:
        """Ends the thread after the checkpoint under way; safe to repeat."""
        self._closed = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._due.wait() and not self._closed:
            self._due.clear()
            try:
                self._checkpoint()
            except (sqlite3.Error, UnderstudyError) as error:
                # The rows are durable where they are; the next turn tries again.
                _log.warning("the log could not be checkpointed: %s", error)

    def _checkpoint(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # Only when nothing is left does the next commit begin at the front of the file again.
            # What came in meanwhile is little, so that commits wait for it as for one another.
            with self._writing:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
