"""Rules of a bundle on disk: only verified bytes are used, equal parts have equal bytes."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from simulators.bundles import build_bundle, certificate, encoder_graph, topic_head, word_vectors
from understudy.edge.bundle import (
    Bundle,
    GoldenVector,
    decode_calibration,
    decode_certificate,
    decode_golden,
    decode_head,
    encode_calibration,
    encode_certificate,
    encode_golden,
    encode_head,
    read_bundle,
)
from understudy.edge.graph import inspect_graph
from understudy.edge.parts import Head, decode_embeddings, encode_embeddings
from understudy.types.bundle import CERTIFICATE, ENCODER, HEAD, MANIFEST, TOKENIZER
from understudy.types.contract import Calibration
from understudy.types.errors import BundleError, DigestError, InvalidValueError


def test_a_bundle_reads_back_under_the_id_it_was_written_with(tmp_path: Path) -> None:
    """The id is the name under which the contract was certified."""
    written = build_bundle(tmp_path / "b")

    bundle = read_bundle(tmp_path / "b")

    assert written == bundle.id
    assert bundle.certificate == certificate()


def test_equal_parts_give_equal_ids(tmp_path: Path) -> None:
    """Content addressing only works when writing is deterministic."""
    assert build_bundle(tmp_path / "a") == build_bundle(tmp_path / "b")
    assert build_bundle(tmp_path / "a") != build_bundle(tmp_path / "c", seed=1)


@pytest.mark.parametrize("name", [ENCODER, HEAD, TOKENIZER, "golden.json", "certificate.json"])
def test_a_flipped_byte_in_any_file_is_refused(tmp_path: Path, name: str) -> None:
    """A single wrong byte may be a disk fault or an attack; neither may answer."""
    build_bundle(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(bytes(data))

    with pytest.raises(DigestError, match=name):
        read_bundle(tmp_path)


def test_a_flipped_byte_in_the_manifest_changes_the_id_or_is_refused(tmp_path: Path) -> None:
    """The manifest is what the signature names."""
    written = build_bundle(tmp_path)
    data = bytearray((tmp_path / MANIFEST).read_bytes())
    data[data.index(b"support")] ^= 1
    (tmp_path / MANIFEST).write_bytes(bytes(data))

    assert written != read_bundle(tmp_path).id


@pytest.mark.parametrize("name", [MANIFEST, HEAD])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """The operator must know what to restore."""
    build_bundle(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(BundleError, match=f"{name} cannot be read: No such file"):
        read_bundle(tmp_path)


def test_a_longer_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    """A swapped file of any size must not fill the memory."""
    build_bundle(tmp_path)
    with (tmp_path / HEAD).open("ab") as file:
        file.truncate(1 << 36)

    with pytest.raises(BundleError, match="larger than"):
        read_bundle(tmp_path)


def test_weights_outside_the_graph_are_refused(tmp_path: Path) -> None:
    """`external_data` reads any file the process may read."""
    graph = encoder_graph(external=True).SerializeToString()

    with pytest.raises(BundleError, match="other files"):
        build_bundle(tmp_path, golden=[], replace={ENCODER: graph})
    assert not list(tmp_path.iterdir())


def test_operators_from_foreign_domains_are_refused() -> None:
    """A custom operator is somebody's native code."""
    graph = encoder_graph(domain="evil.corp").SerializeToString()

    with pytest.raises(BundleError, match=r"evil\.corp::Gather"):
        inspect_graph(graph)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff" * 40, b"not a graph", b"\x3a\xff\x01abc"])
def test_bytes_that_are_no_graph_are_refused(junk: bytes) -> None:
    """The scan must neither crash nor loop on hostile bytes."""
    with pytest.raises(BundleError):
        inspect_graph(junk)


def test_the_scan_sees_dynamic_quantisation_inside_subgraphs() -> None:
    """A missed one would let a batch change a row's answer."""
    import onnx
    from onnx import TensorProto, helper

    inner = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])],
        "inner", [], [helper.make_tensor_value_info("q", TensorProto.UINT8, ["N"])],
    )  # fmt: skip
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model: onnx.ModelProto = helper.make_model(helper.make_graph([branch], "outer", [], []))

    assert inspect_graph(model.SerializeToString()).quantises_at_run_time
    assert not inspect_graph(encoder_graph().SerializeToString()).quantises_at_run_time


@pytest.mark.parametrize("prototypes", [False, True])
def test_a_head_survives_its_bytes(*, prototypes: bool) -> None:
    """What is certified is what is decoded."""
    head = topic_head(prototypes=prototypes)

    again = decode_head(encode_head(head))

    for name in Head.__slots__:
        assert np.array_equal(getattr(head, name), getattr(again, name))


def test_a_half_size_head_is_stable_after_one_rounding() -> None:
    """Else the head would drift with every refresh."""
    once = encode_head(topic_head(prototypes=True), half=True)

    assert once == encode_head(decode_head(once), half=True)
    assert len(once) < len(encode_head(topic_head(prototypes=True)))


def test_a_head_with_unusable_numbers_cannot_be_built() -> None:
    """NaN would make every comparison false, which reads as easy."""
    head = topic_head()

    with pytest.raises(InvalidValueError, match="not finite"):
        Head(head.weight * np.nan, head.bias, head.prototypes, head.prototype_labels)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"{}"])
def test_bytes_that_are_no_head_are_refused(data: bytes) -> None:
    """A bundle's part is untrusted until it parses."""
    with pytest.raises(BundleError, match="the head"):
        decode_head(data)


def test_a_compressed_head_is_refused() -> None:
    """Ten kilobytes of zip can unfold to ten gigabytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", b"\0" * 1000)

    with pytest.raises(BundleError, match="without compression"):
        decode_head(buffer.getvalue())


def test_pickles_are_never_unpickled() -> None:
    """An .npy may carry one, and unpickling runs code."""
    member = io.BytesIO()
    np.save(member, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weight.npy", member.getvalue())

    with pytest.raises(BundleError, match="cannot be read"):
        decode_head(buffer.getvalue())


@pytest.mark.parametrize("certified", [True, False])
def test_a_certificate_survives_its_bytes_infinity_included(*, certified: bool) -> None:
    """An uncertified threshold is infinite, and JSON has no infinity."""
    before = certificate(certified=certified)

    data = encode_certificate(before)

    assert before == decode_certificate(data)
    assert b"Infinity" not in data
    assert certified or math.isinf(decode_certificate(data).threshold)


def test_a_calibration_survives_its_bytes() -> None:
    """The confidence map belongs to the weights."""
    before = Calibration(
        temperature=1.7,
        score="learned",
        weights={"margin": 2.0},
        knots_x=(0.0, 1.0),
        knots_y=(0.1, 0.9),
    )

    assert before == decode_calibration(encode_calibration(before))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"temperature": 0}', b'{"temperature": null}', b"[" * 100_000]
)
def test_bytes_that_are_no_calibration_are_refused(data: bytes) -> None:
    """A broken calibration must never read as confident."""
    with pytest.raises(BundleError, match="calibration"):
        decode_calibration(data)


def test_golden_vectors_without_finite_numbers_are_refused() -> None:
    """A NaN golden value would pass any comparison."""
    with pytest.raises(BundleError, match="golden"):
        decode_golden(b'[{"text": "a", "logits": [1e999]}]')


def test_an_embedding_table_survives_its_bytes() -> None:
    """The static student is nothing but this table."""
    table = word_vectors()

    assert np.array_equal(table, decode_embeddings(encode_embeddings(table)))


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((0, 4), np.float32),
        np.zeros(4, np.float32),
        np.zeros((2, 2)),
        np.full((2, 2), np.inf, np.float32),
    ],
)
def test_a_table_of_the_wrong_kind_is_refused(table: np.ndarray) -> None:
    """The encoder trusts its shape and its numbers."""
    with pytest.raises(BundleError, match="embedding table"):
        decode_embeddings(encode_embeddings(table))


def test_a_head_that_does_not_fit_the_labels_is_refused(tmp_path: Path) -> None:
    """Else an index would name the wrong class."""
    with pytest.raises(BundleError, match="the head has shape"):
        build_bundle(tmp_path, golden=[], labels=("a", "b"))


def variant(plain: Bundle, cpu: str, threshold: float) -> dict[str, bytes]:
    """The parts of a variant with the plain bundle's graph and a certificate of its own."""
    parts = ("encoder.onnx", "golden.json", "calibration.json", "certificate.json")
    names = {part: f".{cpu}.".join(part.split(".")) for part in parts}
    files = {name: plain.files[part] for part, name in names.items()}
    return files | {names[CERTIFICATE]: encode_certificate(certificate(threshold))}


def test_a_cpu_variant_counts_only_with_all_its_parts(tmp_path: Path) -> None:
    """The same graph answers differently on other instructions: own numbers, own certificate."""
    build_bundle(tmp_path / "plain")
    parts = variant(read_bundle(tmp_path / "plain"), "avx9", 0.9)
    build_bundle(tmp_path / "all", replace=parts)
    del parts["golden.avx9.json"]
    build_bundle(tmp_path / "some", replace=parts)

    assert read_bundle(tmp_path / "all").for_cpu({"avx9"}).certificate.threshold == 0.9
    assert read_bundle(tmp_path / "all").for_cpu({"sse"}).cpu == "portable"
    assert read_bundle(tmp_path / "some").for_cpu({"avx9"}).cpu == "portable"


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2", "avx512_vnni"}, "vnni"),
        ({"avx2", "avx_vnni"}, "vnni"),
        ({"avx2"}, "avx2"),
        ({"asimd", "asimddp"}, "dotprod"),
        ({"sse2"}, "portable"),
        (set(), "portable"),
    ],
)
def test_the_variant_with_the_best_instructions_is_chosen(
    tmp_path: Path, flags: set[str], chosen: str
) -> None:
    """A class of CPUs before a single flag: several flags mean the same instructions."""
    build_bundle(tmp_path / "plain")
    plain = read_bundle(tmp_path / "plain")
    parts: dict[str, bytes] = {}
    for cpu in ("avx2", "dotprod", "vnni"):
        parts |= variant(plain, cpu, 0.9)
    build_bundle(tmp_path / "all", replace=parts)

    assert read_bundle(tmp_path / "all").for_cpu(flags).cpu == chosen


def test_a_variant_that_does_not_fit_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """Not by the first node whose CPU would choose it."""
    build_bundle(tmp_path / "plain")
    parts = variant(read_bundle(tmp_path / "plain"), "avx9", 0.9)
    wrong = encode_golden([GoldenVector("card", (1.0, 2.0))])

    with pytest.raises(BundleError, match="the variant for avx9: golden vectors must have 3"):
        build_bundle(tmp_path / "bad", replace=parts | {"golden.avx9.json": wrong})
