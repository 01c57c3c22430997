"""Weight-aware deltas, the node's half: makes a file from its predecessor.

The layout is in docs/bundle-format.md. Nothing here trusts its input: sizes are bounded by the
signed length before anything is unpacked, and the result counts only if its digest is the signed
one. Any failure is a `BundleError`, and the caller fetches the whole file.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from understudy.types.errors import BundleError, DigestError

MAGIC = b"USTDELT1"
_HEADER = struct.Struct("<8s32s32sQI")
_STEP = struct.Struct("<BQQQ")
_COPY, _LITERAL, _CODES, _WORDS = range(4)
_MAX_STEPS = 100_000
_STRETCH = 1 << 14


@dataclass(frozen=True, slots=True)
class _Step:
    """One step: makes the next `size` bytes from the base at `base_at` and a payload."""

    kind: int
    size: int
    base_at: int
    payload: memoryview


def apply_delta(base: bytes, delta: bytes, sha256: str, length: int) -> bytes:
    """Makes a file.

    Args:
        base: The predecessor's bytes.
        delta: The delta's bytes.
        sha256: Digest that the result must have, lower-case hex.
        length: Length that the result must have, bytes.

    Raises:
        BundleError: If the delta does not belong to this base, is malformed, or makes other bytes.
    """
    pieces: list[bytes] = []
    made = 0
    for step in _steps(base, delta):
        if step.size > length - made:
            raise BundleError("the delta makes more bytes than were signed")
        piece = _make(base, step)
        if len(piece) != step.size:
            raise BundleError("a step of the delta makes fewer bytes than it says")
        pieces.append(piece)
        made += len(piece)
    result = b"".join(pieces)
    if made != length or hashlib.sha256(result).hexdigest() != sha256:
        raise DigestError("the delta does not make the file that was signed")
    return result


def _steps(base: bytes, delta: bytes) -> Iterator[_Step]:
    if len(delta) < _HEADER.size:
        raise BundleError("the delta is cut short")
    magic, base_digest, _, _, count = _HEADER.unpack_from(delta)
    if magic != MAGIC or count > _MAX_STEPS:
        raise BundleError("the bytes are no delta that this version reads")
    if hashlib.sha256(base).digest() != base_digest:
        raise BundleError("the delta was made for another file than the one here")
    view, at = memoryview(delta), _HEADER.size
    for _ in range(count):
        if len(delta) - at < _STEP.size:
            raise BundleError("the delta is cut short")
        kind, size, base_at, stored = _STEP.unpack_from(delta, at)
        at += _STEP.size
        if stored > len(delta) - at:
            raise BundleError("the delta is cut short")
        yield _Step(kind, size, base_at, view[at : at + stored])
        at += stored


def _make(base: bytes, step: _Step) -> bytes:
    if step.kind == _LITERAL:
        return _unpacked(step.payload, step.size)
    if step.base_at + step.size > len(base):
        raise BundleError("the delta refers beyond the end of its base")
    old = base[step.base_at : step.base_at + step.size]
    if step.kind == _COPY:
        return old
    if step.kind == _CODES:
        return _codes(old, step.payload)
    if step.kind == _WORDS:
        return _words(old, step.payload)
    raise BundleError(f"the delta has a step of the unknown kind {step.kind}")


def _codes(old: bytes, payload: memoryview) -> bytes:
    """Bytes plus differences from eight bit planes, the highest first."""
    width = (len(old) + 7) // 8
    packed = np.frombuffer(_unpacked(payload, 8 * width), np.uint8).reshape(8, width)
    codes = np.frombuffer(old, np.uint8)
    made = []
    # In stretches: requests are answered in this process meanwhile, and `unpackbits` holds the
    # interpreter for as long as it runs.
    for at in range(0, width, _STRETCH):
        part = codes[8 * at : 8 * (at + _STRETCH)]
        bits = np.unpackbits(packed[:, at : at + _STRETCH], axis=1, count=len(part))
        folded = np.zeros(len(part), np.uint8)
        for row in bits:
            folded = (folded << 1) | row
        difference = (folded >> 1) ^ (np.uint8(0) - (folded & 1))
        made.append(bytes(part + difference))
    return b"".join(made)


def _words(old: bytes, payload: memoryview) -> bytes:
    """Little-endian words plus differences from four byte planes; then the tail as it is."""
    count = len(old) // 4
    data = _unpacked(payload, len(old))
    planes = np.frombuffer(data, np.uint8, 4 * count).reshape(4, count).astype(np.uint32)
    folded = (planes[0] << 24) | (planes[1] << 16) | (planes[2] << 8) | planes[3]
    difference = (folded >> 1) ^ (np.uint32(0) - (folded & 1))
    words = np.frombuffer(old, "<u4", count) + difference
    return bytes(words.astype("<u4")) + data[4 * count :]


def _unpacked(payload: memoryview, size: int) -> bytes:
    """Exactly `size` bytes from under zlib; a bomb is stopped at that size."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(payload, size + 1)
    except zlib.error as error:
        raise BundleError("a step of the delta cannot be unpacked") from error
    if len(data) != size:
        raise BundleError("a step of the delta unpacks to another size than it says")
    return data
