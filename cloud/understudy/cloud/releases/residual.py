"""Weight-aware deltas, the publisher's half: what to send so that a node can make a file from its
predecessor.

Retrained INT8 weights hold almost no byte runs in common with their parents, so generic binary
patches save little; but most codes move by one or two steps, so their differences have few bits.
Differences are written as bit planes (one bit of every difference side by side) under zlib.
`edge.delta` applies them; the layout is in docs/bundle-format.md. A delta is an offer only: the
node checks the digest of the result and fetches the whole file when anything differs.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

MAGIC = b"USTDELT1"
HEADER = struct.Struct("<8s32s32sQI")
STEP = struct.Struct("<BQQQ")
_LEVEL = 6
_SMALLEST_TENSOR = 64


class StepKind(IntEnum):
    """What one step of a delta does; the numbers are part of the format."""

    COPY = 0
    """Bytes of the base as they are."""
    LITERAL = 1
    """Bytes of the payload, under zlib."""
    CODES = 2
    """Base plus differences of bytes: eight bit planes under zlib."""
    WORDS = 3
    """Base plus differences of 32-bit words: four byte planes under zlib."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta as shipped, with the size in bytes of the file that it makes."""

    data: bytes
    full_size: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor's raw bytes lie in a file."""

    kind: StepKind
    start: int
    size: int


def make_delta(name: str, base: bytes, full: bytes) -> Delta:
    """Writes what makes `full` from `base`.

    Args:
        name: File name; `.onnx` files are cut along their tensors.
        base: The bytes that a node has.
        full: The bytes that it shall have.
    """
    steps = _onnx_steps(base, full) if name.endswith(".onnx") else _plain_steps(base, full)
    header = HEADER.pack(
        MAGIC,
        hashlib.sha256(base).digest(),
        hashlib.sha256(full).digest(),
        len(full),
        len(steps),
    )
    return Delta(header + b"".join(steps), len(full))


def _onnx_steps(base: bytes, full: bytes) -> list[bytes]:
    """Residuals for tensors that both graphs have in one size, the rest as it comes."""
    try:
        old, new = dict(_tensors(base)), dict(_tensors(full))
    except (ValueError, IndexError):
        return _plain_steps(base, full)
    steps: list[bytes] = []
    at, base_at = 0, 0
    for name, tensor in sorted(new.items(), key=lambda item: item[1].start):
        before = old.get(name)
        if before is None or (before.kind, before.size) != (tensor.kind, tensor.size):
            continue
        steps += _gap(base, full, base_at, at, tensor.start)
        old_bytes = base[before.start : before.start + before.size]
        new_bytes = full[tensor.start : tensor.start + tensor.size]
        steps.append(_best(tensor.kind, old_bytes, new_bytes, before.start))
        at, base_at = tensor.start + tensor.size, before.start + before.size
    return steps + _gap(base, full, base_at, at, len(full))


def _plain_steps(base: bytes, full: bytes) -> list[bytes]:
    """One step for the whole file."""
    if len(base) != len(full):
        return [_literal(full)]
    return [_best(StepKind.WORDS, base, full, 0)]


def _gap(base: bytes, full: bytes, base_at: int, start: int, stop: int) -> list[bytes]:
    """What lies between two tensors: names, sizes, small tensors."""
    if start == stop:
        return []
    piece = full[start:stop]
    if base[base_at : base_at + len(piece)] == piece:
        return [_step(StepKind.COPY, len(piece), base_at, b"")]
    return [_literal(piece)]


def _best(kind: StepKind, old: bytes, new: bytes, base_at: int) -> bytes:
    """The smallest step that makes `new`."""
    if old == new:
        return _step(StepKind.COPY, len(new), base_at, b"")
    choices = [_literal(new)]
    if kind is StepKind.CODES:
        choices.append(_step(kind, len(new), base_at, _code_planes(old, new)))
    else:
        choices.append(_step(kind, len(new), base_at, _word_planes(old, new)))
    return min(choices, key=len)


def _literal(data: bytes) -> bytes:
    return _step(StepKind.LITERAL, len(data), 0, zlib.compress(data, _LEVEL))


def _step(kind: StepKind, size: int, base_at: int, payload: bytes) -> bytes:
    return STEP.pack(kind, size, base_at, len(payload)) + payload


def _code_planes(old: bytes, new: bytes) -> bytes:
    """Differences modulo 256, folded so that small steps of either sign have few bits."""
    difference = np.frombuffer(new, np.uint8) - np.frombuffer(old, np.uint8)
    signed = difference.view(np.int8)
    folded: NDArray[np.uint8] = ((signed << 1) ^ (signed >> 7)).view(np.uint8)
    planes = [np.packbits((folded >> bit) & 1).tobytes() for bit in range(7, -1, -1)]
    return zlib.compress(b"".join(planes), _LEVEL)


def _word_planes(old: bytes, new: bytes) -> bytes:
    """Differences of little-endian 32-bit words, folded; the tail short of a word comes last."""
    whole = len(new) // 4 * 4
    difference = np.frombuffer(new[:whole], "<u4") - np.frombuffer(old[:whole], "<u4")
    signed = difference.view(np.int32)
    folded = ((signed << 1) ^ (signed >> 31)).view(np.uint32)
    planes = [((folded >> shift) & 255).astype(np.uint8).tobytes() for shift in (24, 16, 8, 0)]
    return zlib.compress(b"".join(planes) + new[whole:], _LEVEL)


def _tensors(data: bytes) -> Iterator[tuple[str, _Tensor]]:
    """Names and places of the weights of an ONNX model, read off the protobuf wire format."""
    view = memoryview(data)
    for graph_at, graph_size in _submessages(view, 0, len(data), 7):
        for at, size in _submessages(view, graph_at, graph_size, 5):
            fields = {number: (start, length) for number, start, length in _fields(view, at, size)}
            if 8 not in fields or 9 not in fields or fields[9][1] < _SMALLEST_TENSOR:
                continue
            start, length = fields[9]
            name_at, name_size = fields[8]
            element = fields[2][0] if 2 in fields else 0
            kind = StepKind.CODES if element in {2, 3} else StepKind.WORDS
            yield bytes(view[name_at : name_at + name_size]).decode(), _Tensor(kind, start, length)


def _submessages(view: memoryview, at: int, size: int, wanted: int) -> Iterator[tuple[int, int]]:
    return (
        (start, length) for number, start, length in _fields(view, at, size) if number == wanted
    )


def _fields(view: memoryview, at: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Field number with start and length of its bytes; for a varint its value and zero."""
    stop = at + size
    while at < stop:
        key, at = _varint(view, at)
        wire_type = key & 7
        if wire_type == 0:
            value, at = _varint(view, at)
            yield key >> 3, value, 0
            continue
        if wire_type == 2:
            length, at = _varint(view, at)
        elif wire_type in {1, 5}:
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError("no protobuf")
        yield key >> 3, at, length
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no protobuf")
