"""Files that are there whole or not at all: what every room relies on."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from understudy.files import create_private, read_bounded, sync, write_atomic


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"first, and longer")
    write_atomic(path, b"second")

    assert b"second" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "expected"), [({}, 0o600), ({"mode": 0o444}, 0o444)])
def test_it_is_its_owners_only_unless_said_otherwise(
    tmp_path: Path, mode: dict[str, int], expected: int
) -> None:
    write_atomic(tmp_path / "kept", b"x", **mode)

    assert expected == stat.S_IMODE((tmp_path / "kept").stat().st_mode)


@pytest.mark.parametrize("fails", ["fsync", "fchmod"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")

    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_content_and_folder_are_synced_in_the_order_that_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content before the rename, the folder after it: else a cut leaves an empty file, or none."""
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def note_rename(self: Path, target: Path) -> Path:
        seen.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_atomic(tmp_path / "kept", b"x")

    assert ["content", "rename", "folder"] == seen


def test_of_many_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    contents = [bytes([i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomic, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert path.read_bytes() in contents
    assert [path] == list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "kept", b"x")
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nowhere")


def test_a_file_that_was_swapped_for_a_larger_one_is_read_to_the_limit_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1000)

    assert b"x" * 11 == read_bounded(tmp_path / "large", 10)


def test_a_private_file_is_made_once_and_its_locks_survive_the_second_time(tmp_path: Path) -> None:
    """Opening and closing it again would drop them: they belong to the process, not the handle."""
    path = tmp_path / "book.db"
    create_private(path)
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        create_private(path)
        program = (
            "import fcntl, sys; "
            "fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        other = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, check=False, timeout=60
        )

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert b"BlockingIOError" in other.stderr
