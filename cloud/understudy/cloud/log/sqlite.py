"""The log in one SQLite file: the default, for everything on one machine.

WAL with `synchronous=FULL`: a commit has reached the disk when it returns. Rows of one `append`
share a commit, so that many concurrent requests cost one fsync; checkpoints run beside the commits.
Several processes may open the same file; writers take turns.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from understudy.cloud.log import MAX_DELIVERIES, LogStats, NewRow
from understudy.cloud.log.checkpoint import Checkpointer
from understudy.cloud.log.rows import decode_label, decode_record, encode_label, encode_record
from understudy.files import create_private
from understudy.types.errors import DataError, LinkDownError, LinkError, OverloadedError
from understudy.types.records import LoggedRow, TeacherLabel

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, even after a trim
    node TEXT NOT NULL,
    event_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    logged_unix_s REAL NOT NULL,
    record BLOB NOT NULL,
    teacher BLOB,
    UNIQUE (event_id, node)                      -- ids grow with time: new ones share a page
) STRICT;
CREATE INDEX IF NOT EXISTS rows_by_subject ON rows (subject) WHERE subject != '';
CREATE INDEX IF NOT EXISTS rows_unlabelled ON rows (sequence) WHERE teacher IS NULL;
CREATE TABLE IF NOT EXISTS consumers (
    name TEXT PRIMARY KEY,
    handed_out INTEGER NOT NULL DEFAULT 0        -- highest sequence ever read
) STRICT;
CREATE TABLE IF NOT EXISTS pending (             -- read, not yet acknowledged
    consumer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    dead INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, sequence)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "sequence, record, teacher, logged_unix_s"
_INSERT = "INSERT INTO rows (node, event_id, subject, logged_unix_s, record, teacher) VALUES "
_VALUES = "(?, ?, ?, ?, ?, ?)"
_STATEMENT_ROWS = 256
_SCAN_PAGE = 512
_CHECKPOINT_ROWS = 4096
"""Some twenty megabytes of write-ahead log: reading it, and opening after a kill, stay fast."""
_BUSY_TIMEOUT_S = 10.0
_NO_SEQUENCE = (1 << 63) - 1


class SqliteLog:
    """The escalation log in one file; see `EscalationLog` for what each method promises."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Opens or makes the file.

        Raises:
            DataError: If the file is no log of ours.
        """
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rows hold what users typed: nobody else on the machine reads them.
        create_private(path)
        self._writer = self._connect()
        self._reader = self._connect()
        self._reader_lock = threading.Lock()
        self._checkpointer = Checkpointer(self._connect, self._lock, every_rows=_CHECKPOINT_ROWS)

    def append(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        """Makes rows durable in one commit and returns them as they stand in the log."""
        stored: list[LoggedRow] = []
        for start in range(0, len(rows), _STATEMENT_ROWS):
            part = rows[start : start + _STATEMENT_ROWS]
            stored += self._insert_new(part) or self._insert_each(part)
        return stored

    def find(self, event_id: str, node: str) -> LoggedRow | None:
        """The row of that event from that node."""
        query = f"SELECT {_COLUMNS} FROM rows WHERE node = ? AND event_id = ?"  # noqa: S608 - constant columns
        found = self._query(query, (node, event_id))
        return found[0] if found else None

    def attach(self, sequence: int, teacher: TeacherLabel) -> None:
        """Adds the teacher's label to a row that had none."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE rows SET teacher = ? WHERE sequence = ? AND teacher IS NULL",
                (encode_label(teacher), sequence),
            )

    def read(self, consumer: str, limit: int) -> list[LoggedRow]:
        """The next rows this consumer has not acknowledged, oldest first."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO consumers (name) VALUES (?)", (consumer,))
            _redeliver(connection, consumer, limit)
            _hand_out(connection, consumer, limit)
            query = (
                "SELECT r.sequence, record, teacher, logged_unix_s FROM pending AS p "
                "JOIN rows AS r USING (sequence) WHERE consumer = ? AND dead = 0 "
                "ORDER BY r.sequence LIMIT ?"
            )
            return [_to_row(found) for found in connection.execute(query, (consumer, limit))]

    def acknowledge(self, consumer: str, sequences: Sequence[int]) -> None:
        """Tells that the consumer is done with these rows."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM pending WHERE consumer = ? AND sequence = ?",
                [(consumer, sequence) for sequence in sequences],
            )

    def dead_letters(self, consumer: str) -> list[LoggedRow]:
        """Rows set aside for this consumer, oldest first."""
        query = (
            "SELECT r.sequence, record, teacher, logged_unix_s FROM pending AS p "
            "JOIN rows AS r USING (sequence) WHERE consumer = ? AND dead = 1 ORDER BY r.sequence"
        )
        return self._query(query, (consumer,))

    def scan(self, after_sequence: int = 0) -> Iterator[LoggedRow]:
        """Every row kept after a sequence, in pages, so that a long scan blocks nobody."""
        query = f"SELECT {_COLUMNS} FROM rows WHERE sequence > ? ORDER BY sequence LIMIT ?"  # noqa: S608
        while page := self._query(query, (after_sequence, _SCAN_PAGE)):
            yield from page
            after_sequence = page[-1].sequence

    def unlabelled(self, limit: int, after_sequence: int = 0) -> list[LoggedRow]:
        """Rows after a sequence that still need the teacher, oldest first."""
        query = (
            f"SELECT {_COLUMNS} FROM rows WHERE teacher IS NULL AND sequence > ? "  # noqa: S608
            "ORDER BY sequence LIMIT ?"
        )
        return self._query(query, (after_sequence, limit))

    def forget(self, subject: str) -> int:
        """Deletes every row about a subject; the empty subject is nobody."""
        if not subject:
            return 0
        with self._transaction() as connection:
            deleted = connection.execute("DELETE FROM rows WHERE subject = ?", (subject,)).rowcount
            _drop_orphans(connection)
            return int(deleted)

    def trim(self, before_unix_s: float) -> int:
        """Deletes rows logged earlier and below every consumer's watermark."""
        with self._transaction() as connection:
            deleted = connection.execute(
                "DELETE FROM rows WHERE logged_unix_s < ? "
                "AND sequence <= COALESCE((SELECT MIN(handed_out) FROM consumers), 0) "
                "AND sequence < COALESCE((SELECT MIN(sequence) FROM pending WHERE dead = 0), ?)",
                (before_unix_s, _NO_SEQUENCE),
            ).rowcount
            _drop_orphans(connection)
            return int(deleted)

    def stats(self) -> LogStats:
        """How the log stands."""
        with self._reading() as connection:
            # Two counts, each over an index: one over both would read every record.
            (rows,) = connection.execute("SELECT COUNT(*) FROM rows").fetchone()
            (unlabelled,) = connection.execute(
                "SELECT COUNT(*) FROM rows WHERE teacher IS NULL"
            ).fetchone()
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'")
            dead = connection.execute("SELECT COUNT(*) FROM pending WHERE dead = 1").fetchone()[0]
            names = connection.execute("SELECT name, handed_out FROM consumers").fetchall()
            return LogStats(
                rows=rows,
                unlabelled=unlabelled,
                last_sequence=next((value for (value,) in last), 0),
                lag={name: _lag(connection, name, upto) for name, upto in names},
                dead_letters=dead,
            )

    def close(self) -> None:
        """Closes the file; safe to repeat."""
        self._checkpointer.close()
        with self._lock, self._reader_lock:
            self._writer.close()
            self._reader.close()

    def _insert_new(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        """All rows by one statement, which is one commit; [] if one of them was there before.

        One statement leaves and takes Python's interpreter lock once: with one for each row, the
        gateway's event loop and this thread would hand the lock to and fro all the time.
        """
        logged = self._now()
        values = [value for row in rows for value in _to_values(row, logged)]
        with self._lock, _our_errors(self._path):
            try:
                inserted = self._writer.execute(_INSERT + ", ".join([_VALUES] * len(rows)), values)
            except sqlite3.IntegrityError:
                return []
            self._checkpointer.wrote(len(rows))
            # One writer at a time and no conflict: the sequences are consecutive.
            first = (inserted.lastrowid or 0) - len(rows) + 1
        return [LoggedRow(first + i, r.record, r.teacher, logged) for i, r in enumerate(rows)]

    def _insert_each(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        with self._transaction() as connection:
            return [self._insert(connection, row) for row in rows]

    def _insert(self, connection: sqlite3.Connection, row: NewRow) -> LoggedRow:
        logged = self._now()
        inserted = connection.execute(
            f"{_INSERT}{_VALUES} ON CONFLICT DO NOTHING", _to_values(row, logged)
        )
        if inserted.rowcount == 1 and inserted.lastrowid is not None:
            return LoggedRow(inserted.lastrowid, row.record, row.teacher, logged)
        return self._merge(connection, row)

    def _merge(self, connection: sqlite3.Connection, row: NewRow) -> LoggedRow:
        """The event is there already: what is stored stays, a missing label is filled in."""
        connection.execute(
            "UPDATE rows SET teacher = ? WHERE node = ? AND event_id = ? AND teacher IS NULL",
            (encode_label(row.teacher), row.record.node, row.record.event_id),
        )
        query = f"SELECT {_COLUMNS} FROM rows WHERE node = ? AND event_id = ?"  # noqa: S608
        return _to_row(connection.execute(query, (row.record.node, row.record.event_id)).fetchone())

    def _query(self, query: str, parameters: Sequence[object]) -> list[LoggedRow]:
        with self._reading() as connection:
            return [_to_row(found) for found in connection.execute(query, tuple(parameters))]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; committed and on disk when the block ends, or not at all."""
        with self._lock, _our_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")
            self._checkpointer.wrote(1)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._reader_lock, _our_errors(self._path):
            yield self._reader

    def _connect(self) -> sqlite3.Connection:
        with _our_errors(self._path):
            connection = sqlite3.connect(
                self._path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute("PRAGMA journal_size_limit = 67108864")
                connection.executescript(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            return connection


def _redeliver(connection: sqlite3.Connection, consumer: str, limit: int) -> None:
    """Counts another delivery of what is pending; what came too often is set aside."""
    connection.execute(
        "UPDATE pending SET dead = (deliveries >= ?), deliveries = deliveries + 1 "
        "WHERE consumer = ? AND dead = 0 AND sequence IN (SELECT sequence FROM pending "
        "WHERE consumer = ? AND dead = 0 ORDER BY sequence LIMIT ?)",
        (MAX_DELIVERIES, consumer, consumer, limit),
    )


def _hand_out(connection: sqlite3.Connection, consumer: str, limit: int) -> None:
    """Fills the pending rows up to `limit` with rows never read before."""
    (waiting,) = connection.execute(
        "SELECT COUNT(*) FROM pending WHERE consumer = ? AND dead = 0", (consumer,)
    ).fetchone()
    connection.execute(
        "INSERT INTO pending (consumer, sequence, deliveries) SELECT ?, sequence, 1 FROM rows "
        "WHERE sequence > (SELECT handed_out FROM consumers WHERE name = ?) "
        "ORDER BY sequence LIMIT ?",
        (consumer, consumer, max(0, limit - waiting)),
    )
    connection.execute(
        "UPDATE consumers SET handed_out = MAX(handed_out, COALESCE("
        "(SELECT MAX(sequence) FROM pending WHERE consumer = ?), 0)) WHERE name = ?",
        (consumer, consumer),
    )


def _drop_orphans(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM pending WHERE sequence NOT IN (SELECT sequence FROM rows)")


def _lag(connection: sqlite3.Connection, consumer: str, handed_out: int) -> int:
    waiting = connection.execute(
        "SELECT COUNT(*) FROM pending WHERE consumer = ? AND dead = 0", (consumer,)
    ).fetchone()[0]
    new = connection.execute(
        "SELECT COUNT(*) FROM rows WHERE sequence > ?", (handed_out,)
    ).fetchone()[0]
    return int(waiting + new)


def _to_values(row: NewRow, logged_unix_s: float) -> tuple[object, ...]:
    record = row.record
    return (
        record.node,
        record.event_id,
        record.subject,
        logged_unix_s,
        encode_record(record),
        encode_label(row.teacher),
    )


def _to_row(found: tuple[int, bytes, bytes | None, float]) -> LoggedRow:
    sequence, record, teacher, logged = found
    return LoggedRow(sequence, decode_record(record), decode_label(teacher), logged)


@contextlib.contextmanager
def _our_errors(path: Path) -> Iterator[None]:
    """Maps SQLite's errors to ours, once."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _operational(error, path) from error
    except sqlite3.ProgrammingError as error:
        raise LinkDownError(f"the log {path} is closed") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is no escalation log, or is damaged: {error}") from error


def _operational(error: sqlite3.OperationalError, path: Path) -> LinkError:
    """Busy and full pass; a file that cannot be opened does not."""
    if any(word in str(error) for word in ("locked", "busy", "full", "disk I/O")):
        return OverloadedError(f"the log {path} takes no rows right now: {error}", 1.0)
    return LinkDownError(f"the log {path} cannot be used: {error}")
