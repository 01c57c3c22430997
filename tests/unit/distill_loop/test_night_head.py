"""The head: what it knows of absent classes, how large it may get, and that the edge agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators.night_world import copied_world
from understudy.distill_loop.head import apply_head, fit_head, head_bytes, pick_prototypes
from understudy.distill_loop.lesson import head_targets, label_set, soft_labels, weights_of
from understudy.distill_loop.recipe import DataRecipe, HeadRecipe
from understudy.distill_loop.rows import Example, Origin
from understudy.edge.bundle import decode_head, read_bundle
from understudy.edge.student import Student
from understudy.types.errors import DataError
from understudy.types.records import TeacherLabel


def _blobs(
    rows: int, classes: int, size: int = 24, noise: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(classes, size))
    labels = np.arange(rows) % classes
    vectors = centres[labels] + noise * generator.normal(size=(rows, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_a_head_names_the_classes_it_was_shown() -> None:
    vectors, labels = _blobs(200, 5)
    fresh, truth = _blobs(100, 5, seed=2)
    head = fit_head(vectors, labels, 5)

    assert (apply_head(head, fresh)[0].argmax(1) == truth).mean() > 0.97


def test_a_class_without_rows_is_never_the_answer() -> None:
    # An approved class may exist before its first example does.
    vectors, labels = _blobs(200, 5)
    head = fit_head(vectors, labels, 8)
    said = apply_head(head, vectors)[0].argmax(1)

    assert set(said) <= set(range(5))
    assert np.isfinite(apply_head(head, vectors)[0]).all()


@pytest.mark.parametrize(("classes", "size"), [(3, 16), (77, 384), (150, 384)])
def test_the_head_file_stays_under_its_bound(classes: int, size: int) -> None:
    vectors, labels = _blobs(classes * 30, classes, size)
    head = fit_head(vectors, labels, classes, recipe=HeadRecipe(iterations=3))

    smallest = 2 * classes * (2 * size + 4) + 4096
    assert len(head_bytes(head)) <= max(HeadRecipe().max_bytes, smallest)
    assert set(head.prototype_labels) == set(range(classes))


def test_what_the_file_holds_answers_as_what_was_fitted() -> None:
    vectors, labels = _blobs(100, 4)
    head = fit_head(vectors, labels, 4)
    read = decode_head(head_bytes(head))

    assert np.abs(apply_head(head, vectors)[0] - apply_head(read, vectors)[0]).max() < 0.05
    assert head_bytes(read) == head_bytes(decode_head(head_bytes(read)))


def test_our_arithmetic_is_the_arithmetic_of_the_edge(tmp_path: Path) -> None:
    _, folder = copied_world(tmp_path)
    bundle = read_bundle(folder)
    output = Student.load(bundle).run(["i lost my card", "refund please"])
    logits, similarity = apply_head(bundle.head, output.vectors)

    assert logits == pytest.approx(output.logits, abs=1e-5)
    assert similarity == pytest.approx(output.similarity, abs=1e-6)


def test_no_rows_no_head() -> None:
    with pytest.raises(DataError, match="no rows"):
        fit_head(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 2)


def test_prototypes_are_unit_and_each_class_has_one_while_there_is_room() -> None:
    vectors, labels = _blobs(300, 10)
    rows, owners = pick_prototypes(vectors, labels, 25, 20)

    assert len(rows) <= 25
    assert set(owners) == set(range(10))
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)


def test_with_less_room_than_classes_the_commonest_classes_get_it() -> None:
    vectors, _ = _blobs(60, 3)
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    _, owners = pick_prototypes(vectors, labels, 2, 20)

    assert [0, 1] == sorted(owners)


def test_new_classes_are_appended_and_known_ones_keep_their_places() -> None:
    # A label's position is its index in the head: moving one would relabel the fleet.
    rows = [Example(id=str(i), text="t", label="zebra") for i in range(3)]
    rows += [Example(id="x", text="t", label="once")]

    assert ("b", "a", "zebra") == label_set(("b", "a", "b"), rows, new_class_rows=3)
    assert ("b", "a") == label_set(("b", "a"), rows, new_class_rows=0)


def test_soft_labels_leave_out_what_the_student_does_not_know() -> None:
    said = TeacherLabel("t", "p", ("a", "other", "b"), tuple(np.log([0.6, 0.3, 0.1])))
    rows = [Example(id="1", text="t", teacher=said), Example(id="2", text="t", label="b")]
    soft = soft_labels(rows, ("a", "b"))

    assert soft == pytest.approx(np.array([[6 / 7, 1 / 7], [0, 0]]))


def test_head_targets_are_distributions_between_the_teacher_s_word_and_its_label() -> None:
    soft = np.array([[0.6, 0.4, 0.0], [0.0, 0.0, 0.0]], np.float32)
    targets = head_targets(soft, np.array([0, 2]), 0.5)

    assert targets == pytest.approx(np.array([[0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]))


def test_weights_are_tempered_so_that_no_row_drowns_the_others() -> None:
    rows = [
        Example(id="a", text="a", propensity=1.0, origin=Origin.ESCALATION),
        Example(id="b", text="b", propensity=0.0001, origin=Origin.AUDIT),
    ]
    weights = weights_of(rows, np.array([0, 0]), DataRecipe())

    assert weights.mean() == pytest.approx(1.0)
    assert weights[1] / weights[0] == pytest.approx(DataRecipe().max_weight)
