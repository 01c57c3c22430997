"""Parts of a cloud that are not there, as honest stand-ins."""

from __future__ import annotations

from typing import BinaryIO

from understudy.types.errors import BundleError
from understudy.types.release import Directive, NodeStatus


class StillFleet:
    """The fleet of a cloud without rollouts: every node stays as it is."""

    def check_in(self, node: str, status: NodeStatus, now: float) -> Directive:  # noqa: ARG002
        return Directive()


class NoAdvice:
    """The adviser of a cloud that does not watch its contract."""

    def advise(self, directive: Directive, task: str) -> Directive:  # noqa: ARG002
        return directive


class NoReleases:
    """The releases of a cloud that has not published any."""

    def metadata(self, name: str) -> bytes:
        raise BundleError(f"nothing was published yet, so there is no '{name}'")

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        raise BundleError(f"nothing was published yet, so there is no '{sha256}'")

    def trusted_root(self) -> bytes:
        return b""
