"""Both sides of a repository on one disk, and how a new one is made.

<directory>/metadata/   signed files
<directory>/blobs/      files by digest
<directory>/online/     the server's two keys
<keys>/                 the publisher's keys under a passphrase; outside of <directory>
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from understudy.cloud.releases.keys import FolderKeyRing
from understudy.cloud.releases.publisher import Publisher, PublisherSettings
from understudy.cloud.releases.rotation import KeyHolder, Rotated, Rotation, rotate
from understudy.cloud.releases.store import ReleaseStore
from understudy.types.errors import ConfigError


class ReleaseRepository:
    """A repository's folder; gives the server's side and, to who has the keys, the publisher's."""

    def __init__(
        self,
        directory: Path,
        settings: PublisherSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._settings = settings or PublisherSettings()
        self._clock = clock

    @classmethod
    def open(
        cls,
        directory: Path | str,
        settings: PublisherSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ReleaseRepository:
        """Opens an existing repository.

        Raises:
            ConfigError: If there is none.
        """
        folder = Path(directory)
        if not (folder / "metadata").is_dir():
            raise ConfigError(f"{folder} is no release repository; create one first")
        return cls(folder, settings, clock)

    @classmethod
    def create(
        cls,
        directory: Path | str,
        keys: Path | str,
        passphrase: str,
        *,
        root_keys: int = 1,
        root_threshold: int = 1,
        settings: PublisherSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ReleaseRepository:
        """Makes a new repository with new keys.

        Args:
            directory: Where the server will serve from.
            keys: Where the publisher's keys go; must lie outside of `directory`.
            passphrase: Opens the publisher's keys.
            root_keys: How many root keys to make.
            root_threshold: How many of them must sign a change of keys.
            settings: How releases are kept.
            clock: Seconds since 1970.

        Raises:
            ConfigError: If there is a repository already, or the keys would lie inside it.
        """
        folder, key_folder = Path(directory).resolve(), Path(keys).resolve()
        if key_folder.is_relative_to(folder):
            raise ConfigError("the publisher's keys must not lie in the folder the server serves")
        if (folder / "metadata").is_dir():
            raise ConfigError(f"{folder} is a release repository already")
        folder.mkdir(parents=True, exist_ok=True)
        ring = FolderKeyRing(key_folder, passphrase)
        for role in (*[Root.type] * root_keys, Targets.type):
            ring.generate(role)
        online = FolderKeyRing(folder / "online", None)
        public = {role: online.generate(role) for role in (Snapshot.type, Timestamp.type)}
        made = cls(folder, settings, clock)
        Publisher(folder, ring, settings, clock).create(public, root_threshold=root_threshold)
        made.store().refresh()
        return made

    def store(self) -> ReleaseStore:
        """The server's side."""
        online = FolderKeyRing(self.directory / "online", None)
        return ReleaseStore(self.directory, online, self._settings.lifetimes, self._clock)

    def publisher(self, keys: Path | str, passphrase: str | None) -> Publisher:
        """The publisher's side, for who has the keys; no key is opened before it is needed."""
        ring = FolderKeyRing(Path(keys), passphrase)
        return Publisher(self.directory, ring, self._settings, self._clock)

    def rotate(self, rotation: Rotation, keys: Path | str, passphrase: str | None) -> Rotated:
        """Replaces keys, for who has the root keys; nodes follow at their next check-in.

        Raises:
            ConfigError: If too few root keys can sign; everything stays as it was then.
        """
        ring = FolderKeyRing(Path(keys), passphrase)
        theirs = ring
        if rotation.holder is KeyHolder.ONLINE:
            theirs = FolderKeyRing(self.directory / "online", None)
        return rotate(rotation, theirs, self.publisher(keys, passphrase).change_keys)
