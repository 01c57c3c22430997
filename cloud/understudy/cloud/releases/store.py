"""The server's side: hands out bytes, and signs that they are current.

It holds the snapshot and timestamp keys only. Whoever steals them, and the disk with them, can say
nothing new about what may be installed: that takes the publisher's targets key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from understudy.cloud.releases.disk import Blobs, locked
from understudy.cloud.releases.keys import KeyRing
from understudy.cloud.releases.release import Release, releases_of
from understudy.cloud.releases.roles import Lifetimes, RoleFiles, expiry, sign
from understudy.types.errors import BundleError, ConfigError

_log = logging.getLogger(__name__)
_METADATA, _BLOBS = "metadata", "blobs"
_DAY_S = 86_400.0
_TARGETS_FILE, _SNAPSHOT_FILE = "targets.json", "snapshot.json"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the folder looked like at the last refresh, and when signatures need renewing."""

    stamp: tuple[int, ...]
    due_unix_s: float


class ReleaseStore:
    """Serves a repository; thread-safe."""

    def __init__(
        self,
        directory: Path,
        keys: KeyRing,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Remembers where the files lie; opens no key.

        Args:
            directory: The repository.
            keys: Gives the snapshot and timestamp signers.
            lifetimes: How long signatures stand; renewed at half their life.
            clock: Seconds since 1970.
        """
        self._directory = directory
        self._keys = keys
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock
        self._roles = RoleFiles(directory / _METADATA)
        self._blobs = Blobs(directory / _BLOBS)
        self._mutex = threading.Lock()
        self._seen: _Seen | None = None
        self._listed: tuple[int, list[Release]] | None = None

    def metadata(self, name: str) -> bytes:
        """The bytes of one signed file; `timestamp.json` is brought up to date first.

        Args:
            name: A TUF metadata file name such as `timestamp.json` or `3.root.json`.

        Raises:
            BundleError: If there is no such file.
        """
        if name == "timestamp.json":
            try:
                self.refresh()
            except ConfigError as error:
                # What is signed stands until it runs out; the metrics tell when that is.
                _log.warning("%s", error)
        return self._roles.read(name)

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        """Opens a content-addressed file; the caller closes it.

        Returns:
            The open file and its size in bytes.

        Raises:
            BundleError: If `sha256` is no digest, or nothing is stored under it.
        """
        path = self._blobs.path(sha256)
        return path.open("rb"), path.stat().st_size

    def trusted_root(self) -> bytes:
        """The newest root, for a node that enrols: where its trust begins.

        Raises:
            ConfigError: If the repository was never created.
        """
        return self._roles.read(f"{self._roles.root().signed.version}.root.json")

    def releases(self) -> list[Release]:
        """Every release that the publisher's newest signature lists, oldest first.

        Raises:
            BundleError: If there is no targets metadata that the root trusts.
        """
        stamp = self._roles.directory.stat().st_mtime_ns
        listed = self._listed
        if listed is None or listed[0] != stamp:
            # Asked at every check-in; signatures are checked again only when a file has changed.
            self._listed = listed = (stamp, releases_of(self._targets().signed))
        return list(listed[1])

    def current(self, task: str, channel: str) -> Release | None:
        """The newest release of a channel; None when it has none."""
        mine = [r for r in self.releases() if (r.task, r.channel) == (task, channel)]
        return mine[-1] if mine else None

    def expiries(self) -> dict[str, float]:
        """When each role's newest signature runs out, seconds since 1970; updates stop then.

        Raises:
            BundleError: If there is no targets metadata that the root trusts.
        """
        root = self._roles.root()
        ends = {
            Root.type: root.signed.expires,
            Targets.type: self._roles.targets(root.signed).signed.expires,
        }
        online = (self._roles.snapshot(root.signed), self._roles.timestamp(root.signed))
        ends |= {m.signed.type: m.signed.expires for m in online if m is not None}
        return {role: end.timestamp() for role, end in ends.items()}

    def refresh(self) -> bool:
        """Signs snapshot and timestamp again if the targets changed or half their life is over.

        Returns:
            True if anything was signed.

        Raises:
            BundleError: If the newest targets are not signed by a key the root trusts.
            ConfigError: If the server's own keys are missing.
        """
        with self._mutex:
            if self._seen == (seen := self._look()) and self._clock() < seen.due_unix_s:
                return False
            with locked(self._directory):
                changed = self._sign_what_is_due()
            self._seen = self._look()
            return changed

    def collect_garbage(self) -> int:
        """Removes files that no signed targets refer to; returns how many."""
        with locked(self._directory):
            targets = self._targets().signed.targets.values()
            used = {file.hashes["sha256"] for file in targets}
            unused = self._blobs.names() - used
            for digest in unused:
                self._blobs.remove(digest)
        return len(unused)

    def _sign_what_is_due(self) -> bool:
        root = self._roles.root().signed
        targets = self._roles.targets(root)
        snapshot = self._roles.snapshot(root)
        timestamp = self._roles.timestamp(root)
        renew_snapshot = self._is_stale(snapshot, self._lifetimes.snapshot) or (
            snapshot is not None and _meta(snapshot, targets) != snapshot.signed.meta
        )
        if snapshot is None or renew_snapshot:
            snapshot = self._sign_snapshot(root, snapshot, targets)
            renew_snapshot = True
        stale = timestamp is None or self._is_stale(timestamp, self._lifetimes.timestamp)
        behind = timestamp is not None and (
            timestamp.signed.snapshot_meta.version != snapshot.signed.version
        )
        if stale or behind:
            self._sign_timestamp(root, timestamp, snapshot)
        return renew_snapshot or stale or behind

    def _sign_snapshot(
        self, root: Root, old: Metadata[Snapshot] | None, targets: Metadata[Targets]
    ) -> Metadata[Snapshot]:
        version = max(self._roles.versions(Snapshot.type), default=0) + 1
        signed = Snapshot(
            version=version,
            expires=expiry(self._clock(), self._lifetimes.snapshot),
            meta=_meta(old, targets),
        )
        metadata = sign(Metadata(signed), self._signers(root, Snapshot.type))
        self._roles.write(Snapshot.type, metadata)
        return metadata

    def _sign_timestamp(
        self, root: Root, old: Metadata[Timestamp] | None, snapshot: Metadata[Snapshot]
    ) -> None:
        data = self._roles.read(f"{snapshot.signed.version}.snapshot.json")
        signed = Timestamp(
            version=(old.signed.version if old else self._last_timestamp()) + 1,
            expires=expiry(self._clock(), self._lifetimes.timestamp),
            snapshot_meta=MetaFile.from_data(snapshot.signed.version, data, ["sha256"]),
        )
        metadata = sign(Metadata(signed), self._signers(root, Timestamp.type))
        self._roles.write(Timestamp.type, metadata)

    def _signers(self, root: Root, role: str) -> list[Signer]:
        """Those of our keys that the root names; without one, nothing on the disk is touched."""
        role_keys = root.roles[role]
        signers = self._keys.signers(role, role_keys.keyids)
        if len(signers) < role_keys.threshold:
            raise ConfigError(
                f"the server has no {role} key that the root names; restore "
                f"{self._directory / 'online'}, or run `understudy release rotate online`"
            )
        return signers

    def _last_timestamp(self) -> int:
        """The version on disk even if its key is no longer trusted: versions only grow."""
        try:
            data = self._roles.read("timestamp.json")
            return Metadata[Timestamp].from_bytes(data).signed.version
        except BundleError:
            return 0

    def _is_stale(
        self, metadata: Metadata[Snapshot] | Metadata[Timestamp] | None, days: float
    ) -> bool:
        if metadata is None:
            return True
        left = metadata.signed.expires.timestamp() - self._clock()
        return left < days * _DAY_S / 2

    def _look(self) -> _Seen:
        folder = self._roles.directory
        stamp = (folder.stat().st_mtime_ns, max(self._roles.versions(Targets.type), default=0))
        half = min(self._lifetimes.timestamp, self._lifetimes.snapshot) * _DAY_S / 2
        before = self._seen
        due = before.due_unix_s if before and before.stamp == stamp else self._clock() + half
        return _Seen(stamp, due)

    def _targets(self) -> Metadata[Targets]:
        return self._roles.targets(self._root())

    def _root(self) -> Root:
        return self._roles.root().signed


def _meta(old: Metadata[Snapshot] | None, targets: Metadata[Targets]) -> dict[str, MetaFile]:
    """What the snapshot must say of the targets; whatever it listed before stays listed."""
    listed = dict(old.signed.meta) if old else {}
    listed[_TARGETS_FILE] = MetaFile(targets.signed.version)
    return listed
