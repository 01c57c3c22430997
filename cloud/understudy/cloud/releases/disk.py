"""Files of the release repository: by digest, one writer at a time."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.files import write_atomic
from understudy.types.errors import BundleError

DIGEST = re.compile(r"[0-9a-f]{64}")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the folder's write lock; publishers of one repository queue here."""
    with (directory / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Blobs:
    """Content-addressed files: the name is the sha256 of the bytes, in lower-case hex."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, data: bytes) -> str:
        """Stores `data`; returns its digest. Storing twice is storing once."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._directory / digest
        if not path.exists() or path.stat().st_size != len(data):
            write_atomic(path, data, mode=0o444)
        return digest

    def path(self, sha256: str) -> Path:
        """Where the bytes of a digest lie.

        Raises:
            BundleError: If `sha256` is no digest, or nothing is stored under it.
        """
        if not DIGEST.fullmatch(sha256):
            raise BundleError("a file is asked for by its sha256 in 64 lower-case hex digits")
        path = self._directory / sha256
        if not path.is_file():
            raise BundleError(f"the repository holds no file {sha256}")
        return path

    def get(self, sha256: str) -> bytes:
        """The bytes of a digest.

        Raises:
            BundleError: If nothing is stored under it.
        """
        return self.path(sha256).read_bytes()

    def names(self) -> set[str]:
        """Every digest stored."""
        return {p.name for p in self._directory.iterdir() if DIGEST.fullmatch(p.name)}

    def remove(self, sha256: str) -> None:
        """Forgets the bytes of a digest."""
        self.path(sha256).unlink()
