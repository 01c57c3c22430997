"""Files on disk, whole or not at all: temporary neighbour, fsync, rename, fsync of the folder.

Floor 1, beside the types, which may not touch files. What every room needs of a disk and the
standard library does not give; nothing about what is in the files.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["create_private", "read_bounded", "sync", "write_atomic"]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Puts `data` at `path`; a crash at any point leaves the old file or the new one.

    Any number of writers may do so at once; the last one wins.

    Args:
        path: Where to; its folder must exist.
        data: The whole content.
        mode: Permissions; for its owner only unless said otherwise.

    Raises:
        OSError: If the disk is full or refuses; the old file stays and no temporary is left.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def create_private(path: Path) -> None:
    """Makes an empty file for its owner only, unless there is one; for a database to be opened.

    One that is there is not even opened: closing it would drop the POSIX locks that this process
    holds on it, and SQLite would lose its write-ahead log to the next process that closes it.

    Raises:
        OSError: If the disk refuses.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def sync(path: Path) -> None:
    """Makes durable what was written to a file, or renamed and removed in a folder.

    Raises:
        OSError: If the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_bounded(path: Path, limit: int) -> bytes:
    """Reads at most `limit` + 1 bytes, so that a swapped file cannot fill the memory.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(limit + 1)
