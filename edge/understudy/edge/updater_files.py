"""Files on their way to a node: fetched by digest, resumed after any cut, within a bandwidth.

A file under `blobs/<sha256>` is whole and was hashed; `<sha256>.part` is on its way. Bytes
that were received are never asked for again unless the finished file has the wrong digest.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from understudy.edge.delta import apply_delta
from understudy.edge.trust import ArtifactSource, TrustedFile
from understudy.files import sync, write_atomic
from understudy.types.errors import BundleError, DigestError, LinkError

_HASH_CHUNK = 1 << 20


class Bandwidth:
    """Paces bytes by pausing the reader; HTTP/2 flow control then holds the sender.

    Args:
        bytes_per_s: The limit; 0 for none.
        clock: Seconds, monotonic.
        pause: Waits so many seconds; returns True if the wait was cut short by a shutdown.
    """

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._pause = pause or _sleep
        self._free_at = 0.0

    def spend(self, count: int) -> bool:
        """Accounts for `count` bytes and waits until they are paid for; True to stop."""
        if self._bytes_per_s <= 0:
            return False
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._bytes_per_s
        return self._pause(self._free_at - now)


@dataclass
class Transfer:
    """What travelled: bytes received, and bytes that a plain full download would have taken."""

    received: int = 0
    saved: int = 0
    deltas_used: int = 0
    deltas_failed: int = 0


@dataclass
class BlobFolder:
    """The files of one node by digest.

    Attributes:
        directory: Where they lie.
        source: Where they come from.
        bandwidth: Paces the download.
        stopping: True when the process wants to end; asked between pieces.
        timeout_s: Deadline of one stretch of a download; the next stretch resumes.
        transfer: What travelled since this object was made.
    """

    directory: Path
    source: ArtifactSource
    bandwidth: Bandwidth
    stopping: Callable[[], bool]
    timeout_s: float = 60.0
    transfer: Transfer = field(default_factory=Transfer)

    def path(self, sha256: str) -> Path:
        """Where the whole file lies, or will."""
        return self.directory / sha256

    def has(self, file: TrustedFile) -> bool:
        """True if a file of that digest and length is there."""
        path = self.path(file.sha256)
        return path.is_file() and path.stat().st_size == file.length

    def read(self, file: TrustedFile) -> bytes:
        """The bytes of a file, hashed now.

        Raises:
            DigestError: If they are not what was signed; the file is removed then.
        """
        path = self.path(file.sha256)
        data = path.read_bytes()
        if len(data) != file.length or hashlib.sha256(data).hexdigest() != file.sha256:
            path.unlink()
            raise DigestError(f"the stored file {file.sha256[:12]} is damaged; fetched again")
        return data

    def fetch(self, file: TrustedFile) -> None:
        """Makes a file whole, going on where an earlier try was cut.

        Raises:
            DigestError: If the server sent other bytes than were signed; nothing is kept.
            BundleError: If the server does not have it.
            LinkError: If the link was cut; what arrived is kept.
            OSError: If the disk refuses; what arrived is kept.
        """
        if self.has(file):
            return
        part = self.path(f"{file.sha256}.part")
        hasher, offset = _hash_part(part, file.length)
        with part.open("ab") as sink, self._pieces(file, offset) as pieces:
            for piece in pieces:
                self.transfer.received += len(piece)
                offset += len(piece)
                if offset > file.length:
                    break
                sink.write(piece)
                hasher.update(piece)
                if offset == file.length:
                    break
                if self.bandwidth.spend(len(piece)) or self.stopping():
                    raise LinkError("the download was interrupted; it goes on later")
        self._finish(file, part, hasher.hexdigest(), offset)

    def fetch_by_delta(self, base: TrustedFile, full: TrustedFile, delta: TrustedFile) -> bool:
        """Makes a file from its predecessor; False if the delta did not work, whatever its fault.

        Raises:
            LinkError: If the link was cut; what arrived is kept.
            OSError: If the disk refuses.
        """
        try:
            self.fetch(delta)
            made = apply_delta(self.read(base), self.read(delta), full.sha256, full.length)
        except BundleError:
            self.transfer.deltas_failed += 1
            return False
        finally:
            self.path(delta.sha256).unlink(missing_ok=True)
        write_atomic(self.path(full.sha256), made, mode=0o444)
        self.transfer.deltas_used += 1
        self.transfer.saved += full.length - delta.length
        return True

    def borrow(self, file: TrustedFile, path: Path) -> None:
        """Makes a file known that lies elsewhere on this disk, such as in a slot."""
        if not self.has(file):
            write_atomic(self.path(file.sha256), path.read_bytes(), mode=0o444)

    def keep_only(self, digests: set[str]) -> None:
        """Removes every other file, parts included."""
        for path in self.directory.iterdir():
            if path.name.removesuffix(".part") not in digests:
                path.unlink(missing_ok=True)

    @contextmanager
    def _pieces(self, file: TrustedFile, offset: int) -> Iterator[Iterator[bytes]]:
        """The rest of a file; the call ends with the block, even in the middle."""
        pieces = iter(()) if offset == file.length else self.source.blob(
            file.sha256, offset, self.timeout_s
        )  # fmt: skip
        try:
            yield pieces
        finally:
            if isinstance(pieces, Generator):
                pieces.close()

    def _finish(self, file: TrustedFile, part: Path, digest: str, offset: int) -> None:
        # A cut raises LinkError on its own: a stream that ended well but short is a shorter file.
        if offset != file.length or digest != file.sha256:
            part.unlink()
            raise DigestError(f"the server sent other bytes than were signed as {file.sha256[:12]}")
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fchmod(handle, 0o444)
            os.fsync(handle)
        finally:
            os.close(handle)
        part.replace(self.path(file.sha256))
        sync(self.directory)


def _hash_part(part: Path, length: int) -> tuple[hashlib._Hash, int]:
    """The hash so far of a part, and how long it is; a part that is too long is dropped."""
    hasher = hashlib.sha256()
    if not part.exists():
        return hasher, 0
    size = part.stat().st_size
    if size > length:
        part.unlink()
        return hasher, 0
    with part.open("rb") as file:
        while piece := file.read(_HASH_CHUNK):
            hasher.update(piece)
    return hasher, size


def _sleep(seconds: float) -> bool:
    time.sleep(max(0.0, seconds))
    return False
