"""Records that wait for the cloud: on disk while it works, in memory while it does not.

Nothing here raises for a disk's sake, and nothing is lost without being counted:

- a file belongs to the process that holds the lock beside it; files without an owner are adopted;
- a corrupted file is set aside and a fresh one begun;
- a disk that is full or read-only is tried again with every write, memory takes over meanwhile;
- in a forked child everything is left to the parent, and a new file is claimed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from understudy.edge.config import SpoolConfig
from understudy.edge.forks import GATE
from understudy.edge.spool_codec import RecordCodec
from understudy.edge.spool_file import Gone, Row, SpoolFile
from understudy.edge.spool_value import AUDIT, value_of
from understudy.edge.telemetry import Fault
from understudy.types.errors import DataError
from understudy.types.records import EscalationRecord

T = TypeVar("T")

MAX_OWNERS = 256
_ROW_OVERHEAD = 160


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """How the spool stands.

    Attributes:
        rows: Records waiting.
        bytes: Their size.
        durable: True if they are on disk.
    """

    rows: int
    bytes: int
    durable: bool


class Spool:
    """The waiting records of one process; thread-safe, opens its file at the first use.

    Args:
        directory: Where files live; None keeps records in memory only.
        config: Bounds, durability and key.
        on_fault: Told what was lost or set aside, and how often.
        wall: Seconds since 1970, read once; later times are counted from there, so that a clock
            that jumps ages nothing.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        directory: Path | None,
        config: SpoolConfig,
        on_fault: Callable[[Fault, int], None],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._config, self._on_fault = directory, config, on_fault
        self._codec = RecordCodec(bytes.fromhex(config.key))
        self._clock = clock
        self._offset = wall() - clock()
        self._lock = threading.RLock()
        self._claim: _Claim | None = None
        self._disk: SpoolFile | None = None
        self._memory: SpoolFile | None = None
        self._closed = False

    def put(self, records: Sequence[EscalationRecord]) -> None:
        """Keeps records; an event that is kept already is not kept again."""
        rows = [self._row(record) for record in records]
        with GATE, self._lock:
            evicted = self._on_disk(lambda file: file.put(rows))
            if evicted is None:
                evicted = self._in_memory().put(rows)
        self._lost(Fault.SPOOL_FULL, evicted)

    def take(self, rows: int, size: int) -> list[EscalationRecord]:
        """The oldest records that are due, within both limits; they stay until settled."""
        with GATE, self._lock:
            found = self._on_disk(lambda file: file.take(rows, size, self._now())) or []
            if not found and self._memory is not None:
                found = self._memory.take(rows, size, self._now())
            return self._readable(found)

    def settle(self, event_ids: Sequence[str]) -> None:
        """Forgets records that the cloud has, or will never take."""
        with GATE, self._lock:
            self._everywhere(lambda file: file.delete(event_ids))

    def put_off(self, event_ids: Sequence[str], seconds: float) -> None:
        """Does not give records out for a while."""
        until = self._now() + seconds
        with GATE, self._lock:
            self._everywhere(lambda file: file.put_off(event_ids, until))

    def forget(self, subject: str) -> int:
        """Deletes every record about a subject, in every file that can be had; returns how many."""
        with GATE, self._lock:
            self._adopt()
            tag = self._codec.subject_tag(subject)
            return self._everywhere(lambda file: file.delete_subject(tag))

    def expire(self) -> None:
        """Drops records past the age bound and adopts files whose owner has died."""
        with GATE, self._lock:
            self._adopt()
            files = [self._drop_old(self._memory)] if self._memory is not None else []
            files.append(self._on_disk(self._drop_old) or Gone())
        for old in files:
            self._lost(Fault.SPOOL_OLD, old)

    def stats(self) -> SpoolStats:
        """How the spool stands; opens nothing."""
        with GATE, self._lock:
            files = [file for file in (self._disk, self._memory) if file is not None]
            return SpoolStats(
                rows=sum(file.rows for file in files),
                bytes=sum(file.bytes for file in files),
                durable=self._disk is not None,
            )

    def close(self) -> None:
        """Closes the file and lets others adopt it; what memory held goes to disk if it can."""
        with GATE, self._lock:
            if self._memory is not None:
                self._rescue(self._memory)
            self._close_disk()
            if self._memory is not None:
                self._lost(Fault.SPOOL_DISK, self._memory.content())
                self._memory.close()
            self._memory, self._closed = None, True

    def after_fork(self) -> None:
        """In a forked child: leaves file and lock to the parent and starts anew."""
        self._lock = threading.RLock()
        for file in (self._disk, self._memory):
            if file is not None:
                file.abandon()
        if self._claim is not None:
            self._claim.abandon()
        self._claim = self._disk = self._memory = None

    def _drop_old(self, file: SpoolFile) -> Gone:
        now = self._now()
        file.restamp(now)
        return file.delete_before(now - self._config.max_age_s)

    def _row(self, record: EscalationRecord) -> Row:
        payload = self._codec.seal(record)
        tag = self._codec.subject_tag(record.subject)
        size = len(payload) + _ROW_OVERHEAD
        return Row(record.event_id, self._now(), value_of(record), size, tag, payload)

    def _readable(self, rows: Sequence[Row]) -> list[EscalationRecord]:
        records: list[EscalationRecord] = []
        damaged: list[Row] = []
        for row in rows:
            try:
                records.append(self._codec.unseal(row.key, row.payload))
            except DataError:
                damaged.append(row)
        if damaged:
            keys = [row.key for row in damaged]
            self._everywhere(lambda file: file.delete(keys))
            audits = sum(row.prio >= AUDIT for row in damaged)
            self._lost(Fault.SPOOL_DAMAGED, Gone(len(damaged), audits))
        return records

    def _on_disk(self, act: Callable[[SpoolFile], T]) -> T | None:
        """Acts on the file; None when the disk refuses. A corrupted file is replaced, once."""
        for _ in range(2):
            try:
                file = self._open_disk()
                return act(file) if file is not None else None
            except sqlite3.DatabaseError as error:
                if not _is_corruption(error):
                    self._count(Fault.SPOOL_DISK, 1)
                    return None
                self._set_aside()
            except OSError:
                self._count(Fault.SPOOL_DISK, 1)
                return None
        return None

    def _everywhere(self, act: Callable[[SpoolFile], int]) -> int:
        in_memory = act(self._memory) if self._memory is not None else 0
        return in_memory + (self._on_disk(act) or 0)

    def _open_disk(self) -> SpoolFile | None:
        if self._disk is not None or self._directory is None or self._closed:
            return self._disk
        if self._claim is None:
            self._claim = _claim_file(self._directory)
        if self._claim is None:
            return None
        self._disk = SpoolFile(self._claim.path, self._config)
        self._adopt()
        if self._memory is not None and self._memory.rows:
            self._rescue(self._memory)
        return self._disk

    def _in_memory(self) -> SpoolFile:
        if self._memory is None:
            self._memory = SpoolFile(None, self._config)
        return self._memory

    def _rescue(self, memory: SpoolFile) -> None:
        """Moves what memory held to the disk, now that there is one."""
        rows = list(memory.all())
        evicted = self._on_disk(lambda file: file.put(rows)) if rows else None
        if evicted is not None:
            memory.delete([row.key for row in rows])
            self._lost(Fault.SPOOL_FULL, evicted)

    def _adopt(self) -> None:
        """Takes over the files of processes that are gone."""
        mine = self._disk
        if mine is None or self._claim is None or self._directory is None:
            return
        for path in sorted(self._directory.glob("*.db")):
            if path == self._claim.path:
                continue
            claim = _try_claim(path)
            if claim is None:
                continue
            try:
                self._move_rows(path, mine)
            finally:
                claim.release()

    def _move_rows(self, path: Path, mine: SpoolFile) -> None:
        try:
            orphan = SpoolFile(path, self._config)
            try:
                self._lost(Fault.SPOOL_FULL, mine.put(list(orphan.all())))
            finally:
                orphan.close()
            _remove(path)
        except sqlite3.DatabaseError as error:
            if _is_corruption(error):
                _keep_aside(path)
                self._count(Fault.SPOOL_CORRUPT, 1)

    def _set_aside(self) -> None:
        claim = self._claim
        if self._disk is not None:
            self._count(Fault.SPOOL_DAMAGED, self._disk.rows)
            self._disk.close()
        self._disk = None
        if claim is not None:
            _keep_aside(claim.path)
        self._count(Fault.SPOOL_CORRUPT, 1)

    def _close_disk(self) -> None:
        if self._disk is not None:
            self._disk.close()
        if self._claim is not None:
            self._claim.release()
        self._disk = self._claim = None

    def _now(self) -> float:
        return self._clock() + self._offset

    def _lost(self, fault: Fault, gone: Gone) -> None:
        """Counts what was given up; the certificate must know which of it was evidence."""
        self._count(fault, gone.rows)
        self._count(Fault.AUDIT_LOST, gone.audits)

    def _count(self, fault: Fault, count: int) -> None:
        if count:
            self._on_fault(fault, count)


class _Claim:
    """A lock held on a spool file, by `flock` on its neighbour; it dies with its process."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle

    def release(self) -> None:
        os.close(self._handle)

    def abandon(self) -> None:
        """In a forked child: the lock stays the parent's, only this handle goes."""
        os.close(self._handle)


def _claim_file(directory: Path) -> _Claim | None:
    """Claims the first file without an owner.

    Raises:
        OSError: If the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(MAX_OWNERS):
        claim = _try_claim(directory / f"{number}.db")
        if claim is not None:
            return claim
    return None


def _try_claim(path: Path) -> _Claim | None:
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return _Claim(path, handle)


def _is_corruption(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _keep_aside(path: Path) -> None:
    """Keeps the last corrupted file for whoever wants to look; its log goes with it."""
    for older in path.parent.glob("*.corrupt-*"):
        older.unlink(missing_ok=True)
    path.replace(path.with_suffix(f".corrupt-{time.time_ns()}"))
    _remove(path)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
