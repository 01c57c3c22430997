"""Rules of the student: same text, same numbers, whatever the neighbours, whatever the text."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from simulators.bundles import LABELS, SIZE, build_bundle, certificate, encoder_graph
from understudy.edge.bundle import (
    Bundle,
    GoldenVector,
    Head,
    encode_certificate,
    encode_golden,
    read_bundle,
)
from understudy.edge.config import ProfileName
from understudy.edge.cpu import cpu_flags
from understudy.edge.head_math import HeadMath
from understudy.edge.student import PROFILES, Student
from understudy.types.bundle import CALIBRATION, ENCODER, TOKENIZER
from understudy.types.errors import BundleError, InvalidValueError

TEXTS = [
    "the machine swallowed my card",
    "money sent to a bank account",
    "item back to the shop",
    "",
    "x" * 5000,
]


def student(directory: Path, **options: object) -> Student:
    build_bundle(directory, **options)  # type: ignore[arg-type] # passes any option on
    return Student.load(read_bundle(directory))


@pytest.mark.parametrize("static", [False, True], ids=["onnx", "static"])
@pytest.mark.parametrize("prototypes", [False, True], ids=["linear", "mixed"])
def test_a_student_names_the_topic_of_a_text(
    tmp_path: Path, *, static: bool, prototypes: bool
) -> None:
    """Both runtimes and both heads behind one interface."""
    output = student(tmp_path, static=static, prototypes=prototypes).run(TEXTS)

    assert [LABELS[i] for i in output.logits[:3].argmax(axis=1)] == ["card", "transfer", "refund"]
    assert output.logits.shape == (5, len(LABELS))
    assert output.vectors.shape == (5, SIZE)


@pytest.mark.parametrize("static", [False, True], ids=["onnx", "static"])
def test_a_texts_numbers_do_not_depend_on_its_neighbours(tmp_path: Path, *, static: bool) -> None:
    """The certificate was made on single rows; a batch must give the same answers."""
    loaded = student(tmp_path, prototypes=True, static=static)

    together = loaded.run(TEXTS)

    for row, text in enumerate(TEXTS):
        assert np.allclose(loaded.run([text]).logits[0], together.logits[row], atol=1e-5)


HEADS = {
    "linear": [],
    "one prototype a class": [0, 1, 2],
    "several, in any order": [2, 0, 1, 0, 2, 2],
    "a class without": [0, 2, 2],
}


@pytest.mark.parametrize("labels", HEADS.values(), ids=HEADS.keys())
def test_a_head_mixes_classes_and_prototypes_as_the_architecture_says(labels: list[int]) -> None:
    """The formula written out, against what is laid out for speed; for one row and for many."""
    rng = np.random.default_rng(0)
    vectors, prototypes = (unit(rng.normal(size=(n, 8))) for n in (5, len(labels)))
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 8), 3))
    head = Head(weight, bias, prototypes, np.array(labels, np.int64), mix=0.3, sharpness=9.0)
    logits, near = HeadMath(head).apply(vectors)
    cosines = vectors @ prototypes.T
    plain = vectors @ weight.T + bias
    best = np.full((5, 3), -1.0)
    for column, label in enumerate(labels):
        best[:, label] = np.maximum(best[:, label], cosines[:, column])
    wanted = np.log(0.7 * softmax(plain) + 0.3 * softmax(9.0 * best)) if labels else plain

    assert logits == pytest.approx(wanted, abs=1e-5)
    assert near == pytest.approx(cosines.max(axis=1, initial=-1.0) if labels else np.ones(5))
    for row, vector in enumerate(vectors):
        one, similarity = HeadMath(head).apply_one(vector)
        assert one == pytest.approx(wanted[row], abs=1e-5)
        assert similarity == pytest.approx(near[row])


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def softmax(rows: np.ndarray) -> np.ndarray:
    powers = np.exp(rows)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_one_text_reads_as_a_batch_of_one(tmp_path: Path) -> None:
    """The hot path must not be another student."""
    loaded = student(tmp_path, prototypes=True)
    for text in TEXTS:
        one, [many] = loaded.read(text), loaded.read_many([text])

        assert one.logits == pytest.approx(many.logits, abs=1e-5)
        assert one.similarity == pytest.approx(many.similarity, abs=1e-6)
        assert one.truncated == many.truncated


def test_a_truncated_text_says_so(tmp_path: Path) -> None:
    """The product may want to shorten it better than we can."""
    output = student(tmp_path).run(["card", "card " * 500, "c" * 2_000_000])

    assert [False, True, True] == output.truncated.tolist()


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "card\0card", "\ud800", "é" * 70_000, "a" * 1_000_000, "\U0010ffff"]
)
def test_any_str_gets_finite_numbers(tmp_path: Path, text: str) -> None:
    """No text a product can hold may break the client."""
    assert np.isfinite(student(tmp_path).run([text]).logits).all()


def test_bytes_are_a_programming_error(tmp_path: Path) -> None:
    """Guessing an encoding would hide a bug of the product."""
    with pytest.raises(InvalidValueError, match="takes a str, not bytes"):
        student(tmp_path).run([b"card"])  # type: ignore[list-item] # the error under test


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    """An empty batch is not an error."""
    assert student(tmp_path).run([]).logits.shape == (0, len(LABELS))


def test_prototypes_turn_logits_into_logarithms_of_probabilities(tmp_path: Path) -> None:
    """Everything downstream sees one kind of number."""
    output = student(tmp_path, prototypes=True).run(TEXTS)

    assert np.allclose(np.exp(output.logits).sum(axis=1), 1, atol=1e-5)
    assert output.similarity[0] > 0.7 > output.similarity[4]


def test_a_head_without_prototypes_finds_nothing_foreign(tmp_path: Path) -> None:
    """A similarity of 1 switches the check off."""
    assert student(tmp_path).run(TEXTS).similarity.tolist() == [1.0] * 5


def test_golden_vectors_that_match_pass(tmp_path: Path) -> None:
    """The bundle's own numbers must come out on this machine."""
    student(tmp_path).check_golden()


def test_golden_vectors_that_differ_are_refused_without_their_text(tmp_path: Path) -> None:
    """A threshold is void on a machine that computes differently; texts stay out of messages."""
    wrong = [GoldenVector("secret words", (9.0, 9.0, 9.0))]

    with pytest.raises(BundleError, match="golden vector 0 is") as caught:
        student(tmp_path, golden=wrong).check_golden()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("profile", list(ProfileName))
def test_every_profile_answers_alike(tmp_path: Path, profile: ProfileName) -> None:
    """A profile buys speed or memory, never other answers."""
    build_bundle(tmp_path)
    loaded = Student.load(read_bundle(tmp_path), PROFILES[profile])

    loaded.check_golden()


def test_many_threads_get_the_answers_of_one(tmp_path: Path) -> None:
    """There is no lock on the way to the runtime."""
    loaded = student(tmp_path, prototypes=True)
    alone = loaded.run(TEXTS).logits
    apart: list[float] = []

    def work() -> None:
        apart.extend(float(np.abs(loaded.run(TEXTS).logits - alone).max()) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(apart) == 200
    assert max(apart) < 1e-6


def test_a_bundle_for_another_cpu_is_refused(tmp_path: Path) -> None:
    """Its numbers were certified on instructions that are absent here."""
    build_bundle(tmp_path, golden=[], cpu="quantum9")

    with pytest.raises(BundleError, match="quantum9"):
        Student.load(read_bundle(tmp_path))


def with_variant(tmp_path: Path, golden: Sequence[GoldenVector]) -> Bundle:
    """A bundle with a variant for CPUs with avx9: other threshold and golden vectors."""
    build_bundle(tmp_path / "plain")
    plain = read_bundle(tmp_path / "plain")
    parts = {
        "encoder.avx9.onnx": plain.files[ENCODER],
        "golden.avx9.json": encode_golden(golden or plain.golden),
        "calibration.avx9.json": plain.files[CALIBRATION],
        "certificate.avx9.json": encode_certificate(certificate(0.9)),
    }
    build_bundle(tmp_path / "both", replace=parts)
    return read_bundle(tmp_path / "both")


def test_a_student_says_which_variant_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threshold goes with its graph."""
    bundle = with_variant(tmp_path, [])
    monkeypatch.setattr("understudy.edge.student.cpu_flags", lambda: frozenset({"avx9"}))
    loaded = Student.proved(bundle)

    assert (loaded.bundle.cpu, loaded.bundle.certificate.threshold) == ("avx9", 0.9)
    assert loaded.bundle.id == bundle.id


def test_a_variant_that_computes_otherwise_here_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual machine may promise instructions that it does not have."""
    bundle = with_variant(tmp_path, [GoldenVector("card", (9.0, 9.0, 9.0))])
    monkeypatch.setattr("understudy.edge.student.cpu_flags", lambda: frozenset({"avx9"}))
    loaded = Student.proved(bundle)

    assert (loaded.bundle.cpu, loaded.bundle.certificate.threshold) == ("portable", 0.5)


def test_a_graph_with_other_ports_is_refused(tmp_path: Path) -> None:
    """Better at load than at the first request."""
    model = encoder_graph()
    model.graph.output[0].name = "logits"
    model.graph.node[-1].output[0] = "logits"
    build_bundle(tmp_path, golden=[], replace={ENCODER: model.SerializeToString()})

    with pytest.raises(BundleError, match="give sent_vec"):
        Student.load(read_bundle(tmp_path))


@pytest.mark.parametrize("name", [ENCODER, TOKENIZER])
def test_a_part_the_library_cannot_load_is_a_bundle_error(tmp_path: Path, name: str) -> None:
    """Foreign exceptions stop here."""
    model = encoder_graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    junk = model.SerializeToString() if name == ENCODER else b"{}"
    build_bundle(tmp_path, golden=[], replace={name: junk})

    with pytest.raises(BundleError, match=f"{name} cannot be loaded"):
        Student.load(read_bundle(tmp_path))


def test_cpu_flags_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    """x86 says flags, ARM says Features; a machine that says nothing is portable."""
    (tmp_path / "x86").write_text("processor: 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    (tmp_path / "arm").write_text("Features : fp asimd\n")
    (tmp_path / "none").write_text("model name : z\n")

    assert cpu_flags(tmp_path / "x86") == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_flags(tmp_path / "arm") == {"fp", "asimd"}
    assert cpu_flags(tmp_path / "none") == cpu_flags(tmp_path / "absent") == frozenset()


def test_the_runtime_starts_no_telemetry_thread_and_leaves_the_environment_alone() -> None:
    """A product has not agreed to report to anybody, and a forked worker would hang at its exit."""
    code = (
        "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "import understudy.edge.student\n"
        "assert 'ORT_DISABLE_TELEMETRY' not in os.environ\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "1\n"
