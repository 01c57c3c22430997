"""What an updater remembers on disk: its record, two slots, and the pointer to the one in use.

<state>/update.json      where the updater stands; written before each action
<state>/slots/A, B       two bundles: the one in use and the one before (or the one to come)
<state>/current          which slot answers; changed by one rename
<state>/blobs/<sha256>   files that are whole; <sha256>.part while they travel
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.updater_probation import ProbationCounters
from understudy.files import sync, write_atomic
from understudy.types.bundle import MANIFEST
from understudy.types.errors import BundleError
from understudy.types.release import UpdateState

SLOTS = ("A", "B")
MAX_STARTS = 3
"""Starts of a process with a bundle on probation before it is taken back."""
START_SPACING_S = 3.0
"""Starts closer together count as one: the workers of one host start at the same time."""
_RECORD, _CURRENT, _LEADER = "update.json", "current", "leader.lock"
_UNPROVEN = {UpdateState.ACTIVATE, UpdateState.PROBATION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The pointer: which slot answers.

    Attributes:
        slot: `A` or `B`.
        bundle: Id of the bundle in it.
        sequence: The release it came with; 0 for the one a product was delivered with.
    """

    slot: str
    bundle: str
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where an update stands.

    Attributes:
        state: What is being done.
        target: TUF target path of the release that is being installed.
        bundle: Its bundle.
        sequence: Its place in the order of releases.
        committed: Highest release ever committed here; a node does not go below it.
        previous: The pointer as it was before activation; where a rollback goes.
        attempts: Tries of the present state, process starts on probation included.
        failures: Tries of this release in a row that ended early; grows the pause.
        due_unix_s: Nothing is done before this time.
        started_unix_s: When a start was counted last.
        probation_unix_s: When the probation began.
        check_in_unix_s: When the cloud wants to hear from the node again.
        baseline: Counters of the champion just before the swap.
        promised_escalation: Share of requests that the new bundle's certificate expects to
            escalate.
        failed_bundle: The bundle that failed last.
        failure: Why, one sentence.
        denied: Release by id of each bundle that failed here; not tried again.
    """

    state: UpdateState = UpdateState.IDLE
    target: str = ""
    bundle: str = ""
    sequence: int = 0
    committed: int = 0
    previous: Current | None = None
    attempts: int = 0
    failures: int = 0
    due_unix_s: float = 0.0
    started_unix_s: float = 0.0
    probation_unix_s: float = 0.0
    check_in_unix_s: float = 0.0
    baseline: ProbationCounters = field(default_factory=ProbationCounters)
    promised_escalation: float = 1.0
    failed_bundle: str = ""
    failure: str = ""
    denied: Mapping[str, int] = field(default_factory=dict)


class StateFolder:
    """The folder of one node; one process writes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("slots", "blobs", "trust"):
            (directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def record(self) -> Record:
        """Where the update stands; idle when the file is absent or unreadable."""
        try:
            data = (self.directory / _RECORD).read_bytes()
            return msgspec.json.decode(data, type=Record)
        except (FileNotFoundError, msgspec.DecodeError, ValueError):
            return Record()

    def persist(self, record: Record) -> None:
        """Makes `record` durable.

        Raises:
            OSError: If the disk refuses.
        """
        write_atomic(self.directory / _RECORD, msgspec.json.encode(record))

    def current(self) -> Current | None:
        """The pointer; None when nothing was ever installed."""
        try:
            data = (self.directory / _CURRENT).read_bytes()
            return msgspec.json.decode(data, type=Current)
        except (FileNotFoundError, msgspec.DecodeError, ValueError):
            return None

    def point(self, current: Current) -> None:
        """Changes the pointer, durably, in one rename.

        Raises:
            OSError: If the disk refuses; the old pointer stays.
        """
        write_atomic(self.directory / _CURRENT, msgspec.json.encode(current))

    def slot(self, name: str) -> Path:
        """The folder of a slot."""
        return self.directory / "slots" / name

    def spare_slot(self) -> str:
        """The slot that does not answer."""
        current = self.current()
        return SLOTS[0] if current is None or current.slot == SLOTS[1] else SLOTS[1]

    def fill(self, name: str, sources: Mapping[str, Path]) -> None:
        """Puts files into a slot by hard link, all or none; whatever was in it goes.

        Args:
            name: The slot; never the one that answers.
            sources: Path of the whole file by name, the manifest among them.

        Raises:
            OSError: If the disk refuses.
        """
        slot, making = self.slot(name), self.slot(f"{name}.new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        for file, source in sources.items():
            _link(source, making / file)
        sync(making)
        shutil.rmtree(slot, ignore_errors=True)
        making.replace(slot)
        sync(slot.parent)

    def adopt(self, bundle_dir: Path) -> Current:
        """Installs the bundle a product was delivered with, unless something is installed.

        Raises:
            BundleError: If the folder holds no valid bundle.
            OSError: If the disk refuses.
        """
        current = self.current()
        if current is not None:
            return current
        bundle = read_bundle(bundle_dir)
        names = (*bundle.manifest.files, MANIFEST)
        self.fill(SLOTS[0], {name: bundle_dir / name for name in names})
        current = Current(slot=SLOTS[0], bundle=bundle.id)
        self.point(current)
        return current


class Leadership:
    """Which of a host's processes updates: the first; the others follow its pointer.

    A POSIX lock, because it dies with its process and is not passed on by a fork.
    """

    def __init__(self, directory: Path) -> None:
        handle = os.open(directory / _LEADER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._handle = handle
        weakref.finalize(self, os.close, handle)

    def held(self) -> bool:
        """True if this process leads, or could take the lead just now."""
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def boot(directory: Path | str, clock: Callable[[], float] = time.time) -> Bundle | None:
    """What a starting process shall load: counts the start, and falls back when it must.

    Call it once per process, before anything of a bundle is loaded: a bundle that crashes the
    process is then taken back after `MAX_STARTS` starts, without any updater running.

    Args:
        directory: The node's state folder.
        clock: Seconds since 1970.

    Returns:
        The verified bundle; None when nothing is installed, or nothing valid is left.

    Raises:
        OSError: If the state folder cannot be written.
    """
    folder = StateFolder(Path(directory))
    record, current = folder.record(), folder.current()
    unproven = record.state in _UNPROVEN and current is not None
    apart = abs(clock() - record.started_unix_s) >= START_SPACING_S
    if unproven and apart and current is not None and current.bundle == record.bundle:
        record = replace(record, attempts=record.attempts + 1, started_unix_s=clock())
        if record.attempts > MAX_STARTS:
            record = _taken_back(record, f"not committed after {MAX_STARTS} starts")
        folder.persist(record)
    if record.state is UpdateState.ROLLBACK and record.previous is not None:
        folder.point(record.previous)
    return _first_valid(folder, record)


def settle(directory: Path | str) -> None:
    """Gives back the start that `boot` has counted: what ends in good order did not crash.

    Without it three short commands would take back a student that nobody had found wrong.

    Raises:
        OSError: If the state folder cannot be written.
    """
    folder = StateFolder(Path(directory))
    record = folder.record()
    if record.state in _UNPROVEN and record.attempts > 0:
        folder.persist(replace(record, attempts=record.attempts - 1))


def _taken_back(record: Record, reason: str) -> Record:
    return replace(record, state=UpdateState.ROLLBACK, failure=reason, failed_bundle=record.bundle)


def _first_valid(folder: StateFolder, record: Record) -> Bundle | None:
    """The pointer's bundle, or the other slot's when its bytes are not what they were."""
    current = folder.current()
    if current is None:
        return _after_lost_pointer(folder, record)
    try:
        return _read_slot(folder, current)
    except BundleError as error:
        other = _other_slot(folder, current)
        if other is None:
            return None
        # A dying disk is no fault of the bundle: it is not denied, and may be installed again.
        folder.persist(Record(failure=str(error), denied=record.denied, committed=record.committed))
        folder.point(other)
        return _read_slot(folder, other)


def _after_lost_pointer(folder: StateFolder, record: Record) -> Bundle | None:
    """A pointer that was written and cannot be read: a whole slot, rather a proven one."""
    if not (folder.directory / _CURRENT).exists():
        return None  # nothing was ever activated; what lies in a slot is not tested yet
    found = [other for name in SLOTS if (other := _slot_as_pointer(folder, name)) is not None]
    if not found:
        return None
    found.sort(key=lambda other: other.bundle == record.bundle)
    folder.point(found[0])
    return _read_slot(folder, found[0])


def _read_slot(folder: StateFolder, current: Current) -> Bundle:
    bundle = read_bundle(folder.slot(current.slot))
    if bundle.id != current.bundle:
        raise BundleError(f"slot {current.slot} holds another bundle than the pointer says")
    return bundle


def _other_slot(folder: StateFolder, current: Current) -> Current | None:
    return _slot_as_pointer(folder, SLOTS[1] if current.slot == SLOTS[0] else SLOTS[0])


def _slot_as_pointer(folder: StateFolder, name: str) -> Current | None:
    try:
        return Current(slot=name, bundle=read_bundle(folder.slot(name)).id)
    except BundleError:
        return None


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy; durable either way."""
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source.read_bytes(), mode=0o444)
