"""Rules of files on their way: nothing twice, nothing unhashed, within the bandwidth."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.edge.trust import TrustedFile
from understudy.edge.updater_files import Bandwidth, BlobFolder
from understudy.types.errors import BundleError, DigestError, LinkError

DATA = bytes(range(256)) * 40


class Shop:
    """A source that remembers from where it was asked, and may cut."""

    def __init__(self, data: bytes, cut_after: int | None = None, piece: int = 100) -> None:
        self.data, self.cut_after, self.piece = data, cut_after, piece
        self.offsets: list[int] = []
        self.open_calls = 0

    def metadata(self, name: str, timeout_s: float) -> bytes:  # noqa: ARG002
        raise BundleError(name)

    def blob(self, sha256: str, offset: int, timeout_s: float) -> Iterator[bytes]:  # noqa: ARG002
        self.offsets.append(offset)
        self.open_calls += 1
        try:
            sent = 0
            for at in range(offset, len(self.data), self.piece):
                if self.cut_after is not None and sent >= self.cut_after:
                    raise LinkError("cut")
                yield self.data[at : at + self.piece]
                sent += self.piece
        finally:
            self.open_calls -= 1


def trusted(data: bytes = DATA) -> TrustedFile:
    return TrustedFile(hashlib.sha256(data).hexdigest(), len(data))


def folder(path: Path, shop: Shop, *, stopping: bool = False) -> BlobFolder:
    return BlobFolder(path, shop, Bandwidth(0), lambda: stopping)


def test_a_file_arrives_whole_and_read_only(tmp_path: Path) -> None:
    blobs = folder(tmp_path, Shop(DATA))
    blobs.fetch(trusted())

    assert DATA == blobs.read(trusted())
    assert 0o444 == blobs.path(trusted().sha256).stat().st_mode & 0o777


def test_each_byte_travels_once_however_often_it_is_cut(tmp_path: Path) -> None:
    shop = Shop(DATA, cut_after=1000)
    received, blobs = 0, folder(tmp_path, shop)
    for _ in range(20):
        blobs = folder(tmp_path, shop)
        with contextlib.suppress(LinkError):
            blobs.fetch(trusted())
        received += blobs.transfer.received

    assert DATA == blobs.read(trusted())
    assert len(DATA) == received


def test_a_file_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    shop = Shop(DATA)
    folder(tmp_path, shop).fetch(trusted())
    folder(tmp_path, shop).fetch(trusted())

    assert [0] == shop.offsets


def test_a_part_that_is_complete_is_not_asked_for_again(tmp_path: Path) -> None:
    """The process died between the last byte and the rename."""
    shop = Shop(DATA)
    (tmp_path / f"{trusted().sha256}.part").write_bytes(DATA)
    folder(tmp_path, shop).fetch(trusted())

    assert [] == shop.offsets


@pytest.mark.parametrize(
    "bad", [DATA[:-1], DATA + b"more", DATA[:-1] + b"\x01", b""],
    ids=["short", "long", "other", "empty"],
)  # fmt: skip
def test_other_bytes_than_were_signed_leave_nothing_behind(tmp_path: Path, bad: bytes) -> None:
    blobs = folder(tmp_path, Shop(bad))
    with pytest.raises(DigestError):
        blobs.fetch(trusted())

    assert [] == list(tmp_path.iterdir())


def test_a_wrong_part_is_dropped_and_fetched_anew(tmp_path: Path) -> None:
    shop = Shop(DATA)
    (tmp_path / f"{trusted().sha256}.part").write_bytes(b"\x99" * 500)
    blobs = folder(tmp_path, shop)
    with pytest.raises(DigestError):
        blobs.fetch(trusted())
    blobs.fetch(trusted())

    assert [500, 0] == shop.offsets


def test_a_damaged_file_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    blobs = folder(tmp_path, Shop(DATA))
    blobs.fetch(trusted())
    path = blobs.path(trusted().sha256)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"\x01")
    with pytest.raises(DigestError):
        blobs.read(trusted())

    assert not blobs.has(trusted())


def test_a_stopped_download_ends_its_call_and_keeps_its_bytes(tmp_path: Path) -> None:
    shop = Shop(DATA)
    with pytest.raises(LinkError):
        folder(tmp_path, shop, stopping=True).fetch(trusted())

    assert 0 == shop.open_calls
    assert DATA[:100] == (tmp_path / f"{trusted().sha256}.part").read_bytes()


def test_the_reader_is_paced_to_the_bandwidth() -> None:
    """One second's worth of bytes a second, whatever the size of the pieces."""
    time, pauses = [0.0], []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        time[0] += seconds
        return False

    limit = Bandwidth(1000, clock=lambda: time[0], pause=pause)
    for _ in range(50):
        limit.spend(100)

    assert pytest.approx(5.0) == time[0]
    assert all(pause_s <= 0.11 for pause_s in pauses)


def test_no_limit_never_pauses() -> None:
    assert not Bandwidth(0, pause=lambda _s: True).spend(1 << 30)


def test_only_what_is_used_is_kept(tmp_path: Path) -> None:
    blobs = folder(tmp_path, Shop(DATA))
    blobs.fetch(trusted())
    (tmp_path / ("cd" * 32)).write_bytes(b"old")
    (tmp_path / ("ef" * 32 + ".part")).write_bytes(b"half")
    blobs.keep_only({trusted().sha256})

    assert [trusted().sha256] == [path.name for path in tmp_path.iterdir()]
