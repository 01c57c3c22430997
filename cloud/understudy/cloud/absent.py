"""Parts of a cloud that are not there, as honest stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from understudy.cloud.releases import ReleaseRepository, ReleaseStore
from understudy.types.errors import BundleError
from understudy.types.release import Directive, NodeStatus


class StillFleet:
    """The fleet of a cloud without rollouts: every node stays as it is."""

    def check_in(self, node: str, status: NodeStatus, now: float) -> Directive:  # noqa: ARG002
        return Directive()


class NoAdvice:
    """The adviser of a cloud that does not watch its contract."""

    def advise(self, directive: Directive, status: NodeStatus) -> Directive:  # noqa: ARG002
        return directive


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
