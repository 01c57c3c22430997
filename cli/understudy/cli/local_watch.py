"""The gateway's live watch in this process: reads the simulation's log, orders its one client.

Told between two requests and by counts alone, so that the same stream gets the same orders each
time; only students with a certificate are watched, for there is nothing else to withdraw.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from understudy.cloud.log import EscalationLog
from understudy.cloud.state import SqliteState
from understudy.cloud.watch import ContractWatch, SharedAdvice, last_changes
from understudy.edge.bundle import read_bundle
from understudy.types.bundle import CERTIFICATE, MANIFEST
from understudy.types.contract import Contract
from understudy.types.errors import BundleError
from understudy.types.release import Directive, NodeStatus


class LocalWatch:
    """Watches the certificates of the students that were released; one thread.

    Args:
        log: What is read; belongs to who opened it.
        state: File of the watch's accounts; made when missing.
        task: Task of the students.
        contract: What they promise.
    """

    def __init__(self, log: EscalationLog, state: Path, task: str, contract: Contract) -> None:
        self._task = task
        self._state = SqliteState(state, power_safe=False)
        self._advice = SharedAdvice(self._state)
        self._released = _Released()
        # The watch needs the hour only to give up on labels that are days late.
        self._watch = ContractWatch(log, self._state, self._released, {task: contract}, lambda: 0.0)

    def release(self, directory: Path) -> None:
        """Begins to watch the student in that folder if it has a certificate."""
        bundle = read_bundle(directory)
        if bundle.certificate.certified:
            certificate = bundle.files[CERTIFICATE]
            manifest = (directory / MANIFEST).read_bytes()
            sha256 = bundle.manifest.files[CERTIFICATE].sha256
            self._released.blobs |= {bundle.id: manifest, sha256: certificate}

    def watches(self, bundle: str) -> bool:
        """True if there is a certificate of that student's to withdraw."""
        return bundle in self._released.blobs

    def check_in(self, status: NodeStatus) -> Directive:
        """What a node hears, once the watch has read all that is in the log."""
        while self._watch.step():
            pass
        self._advice.refresh()
        return self._advice.advise(Directive(), status)

    def changes(self) -> Mapping[str, int]:
        """Where traffic was last found to be new: a night must not certify on rows up to there."""
        return last_changes(self._state, self._task)

    def close(self) -> None:
        """Closes the file; safe to repeat."""
        self._state.close()


class _Released:
    """Manifests and certificates by digest, in memory: folders of students come and go."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        if sha256 not in self.blobs:
            raise BundleError(f"{sha256} was not released")
        return BytesIO(self.blobs[sha256]), len(self.blobs[sha256])

    def metadata(self, name: str) -> bytes:
        raise BundleError(f"{name}: a simulation signs nothing")

    def trusted_root(self) -> bytes:
        raise BundleError("a simulation signs nothing")
