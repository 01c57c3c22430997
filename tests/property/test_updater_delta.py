"""Laws of deltas: applying what was made gives the very bytes; anything else gives an error."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.bundles import encoder_graph
from understudy.cloud.releases.residual import HEADER, STEP, StepKind, make_delta
from understudy.edge import delta as edge_delta
from understudy.edge.delta import apply_delta
from understudy.types.errors import BundleError, DigestError

GRAPH = encoder_graph().SerializeToString(deterministic=True)


def applied(base: bytes, delta: bytes, full: bytes) -> bytes:
    return apply_delta(base, delta, hashlib.sha256(full).hexdigest(), len(full))


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_any_file_can_be_made_from_any_other(base: bytes, full: bytes) -> None:
    assert full == applied(base, make_delta("head.npz", base, full).data, full)


@given(st.binary(min_size=1, max_size=999), st.integers(0, 2**32 - 1))
def test_files_of_one_size_too_whatever_their_alignment(base: bytes, seed: int) -> None:
    full = np.random.default_rng(seed).bytes(len(base))

    assert full == applied(base, make_delta("x.bin", base, full).data, full)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    element=st.sampled_from([2, 3, 1]),
    renamed=st.booleans(),
)
def test_graphs_are_cut_along_their_tensors(
    *, seed: int, count: int, element: int, renamed: bool
) -> None:
    """INT8, UINT8 and float tensors, moved a little, renamed or not."""
    chance = np.random.default_rng(seed)
    sizes = chance.integers(1, 400, count)
    old = [chance.integers(0, 255, 4 * n, dtype=np.uint8).tobytes() for n in sizes]
    new = [bytes(chance.choice([0, 1], len(t)).astype(np.uint8) + _bytes(t)) for t in old]
    names = [f"w{i}" for i in range(count)]
    base = _model(names, old, element)
    full = _model([f"{n}x" if renamed else n for n in names], new, element)

    assert full == applied(base, make_delta("encoder.onnx", base, full).data, full)


def test_small_moves_of_codes_cost_a_fraction_of_the_file() -> None:
    """The reason for all this: most codes of a retrained tensor move by one step or none."""
    chance = np.random.default_rng(3)
    old = chance.integers(0, 255, 300_001, dtype=np.uint8)
    moves = np.rint(chance.normal(0, 0.35, old.size)).astype(np.int8).view(np.uint8)
    base, full = _model(["w"], [old.tobytes()], 3), _model(["w"], [(old + moves).tobytes()], 3)
    delta = make_delta("encoder.onnx", base, full).data

    assert full == applied(base, delta, full)
    assert len(delta) < 0.16 * len(full)
    assert len(zlib.compress(full, 9)) > 0.95 * len(full)


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_delta_makes_the_signed_bytes_or_an_error(data: st.DataObject) -> None:
    base, full = GRAPH, GRAPH.replace(b"rows", b"ROWS") + b"tail"
    delta = bytearray(make_delta("encoder.onnx", base, full).data)
    at = data.draw(st.integers(0, len(delta) - 1))
    delta[at] ^= data.draw(st.integers(1, 255))
    try:
        made = applied(base, bytes(delta), full)
    except BundleError:
        return

    assert full == made


@given(st.binary(max_size=400))
def test_noise_is_no_delta(noise: bytes) -> None:
    with pytest.raises(BundleError):
        applied(b"base", noise, b"full")


def test_a_bomb_is_stopped_at_the_signed_length() -> None:
    bomb = zlib.compress(b"\x00" * (64 << 20), 9)
    step = STEP.pack(StepKind.LITERAL, 64 << 20, 0, len(bomb)) + bomb
    header = HEADER.pack(b"USTDELT1", hashlib.sha256(b"base").digest(), bytes(32), 64 << 20, 1)
    with pytest.raises(BundleError):
        apply_delta(b"base", header + step, "00" * 32, 1000)


def test_a_payload_that_unpacks_to_more_than_it_says_is_refused() -> None:
    bomb = zlib.compress(b"\x00" * 10_000_000, 9)
    step = STEP.pack(StepKind.LITERAL, 500, 0, len(bomb)) + bomb
    header = HEADER.pack(b"USTDELT1", hashlib.sha256(b"base").digest(), bytes(32), 500, 1)
    with pytest.raises(BundleError):
        apply_delta(b"base", header + step, "00" * 32, 500)


def test_a_delta_for_another_base_is_refused() -> None:
    delta = make_delta("a.bin", b"one base", b"the full").data
    with pytest.raises(BundleError):
        applied(b"two base", delta, b"the full")


def test_a_result_that_was_not_signed_is_refused() -> None:
    delta = make_delta("a.bin", b"one base", b"the full").data
    with pytest.raises(DigestError):
        applied(b"one base", delta, b"the fulL")


def test_both_halves_speak_of_the_same_format() -> None:
    """The cloud writes, the edge reads, and neither may import the other."""
    assert HEADER.format == edge_delta._HEADER.format
    assert STEP.format == edge_delta._STEP.format
    assert [0, 1, 2, 3] == [k.value for k in StepKind]
    assert (0, 1, 2, 3) == (
        edge_delta._COPY, edge_delta._LITERAL, edge_delta._CODES, edge_delta._WORDS,
    )  # fmt: skip


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _model(names: list[str], tensors: list[bytes], element: int) -> bytes:
    """The bytes of an ONNX model that holds these tensors and nothing else."""
    from onnx import ModelProto, TensorProto

    model = ModelProto(ir_version=8)
    for name, raw in zip(names, tensors, strict=True):
        size = len(raw) if element in {2, 3} else len(raw) // 4
        model.graph.initializer.append(
            TensorProto(name=name, data_type=element, dims=[size], raw_data=raw)
        )
    return model.SerializeToString(deterministic=True)
