"""Releases that may come later: the first night ends hours after the gateway started."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from understudy.cloud.releases import Release, ReleaseRepository, ReleaseStore
from understudy.types.errors import BundleError


class LateReleases:
    """The releases of a folder that may not hold a repository yet: nights come later."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: ReleaseStore | None = None

    def metadata(self, name: str) -> bytes:
        return self._opened().metadata(name)

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        return self._opened().open_blob(sha256)

    def trusted_root(self) -> bytes:
        """The root to pin; empty bytes while nothing was ever signed."""
        try:
            return self._opened().trusted_root()
        except BundleError:
            return b""

    def releases(self) -> list[Release]:
        """Every release that may be installed, oldest first; none while nothing was published."""
        store = self.store()
        return [] if store is None else store.releases()

    def expiries(self) -> dict[str, float]:
        """When each role's newest signature runs out; none while nothing was published."""
        store = self.store()
        try:
            return {} if store is None else store.expiries()
        except BundleError:
            return {}

    def store(self) -> ReleaseStore | None:
        """The repository's server side; None while there is none."""
        if self._store is None and (self._directory / "metadata").is_dir():
            self._store = ReleaseRepository.open(self._directory).store()
        return self._store

    def _opened(self) -> ReleaseStore:
        store = self.store()
        if store is None:
            raise BundleError("nothing was published yet; come back after the first night")
        return store
