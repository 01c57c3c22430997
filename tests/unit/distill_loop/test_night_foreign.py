"""Requests outside every class: learned from those that fitted none, by one vector in the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulators.night_world import seed_rows, teacher_label
from understudy.distill_loop.foreign import LEAST_ROWS, fit_foreign
from understudy.distill_loop.head import apply_head, fit_head, head_bytes
from understudy.distill_loop.lesson import label_set
from understudy.distill_loop.recipe import HeadRecipe
from understudy.distill_loop.rows import NONE_LABEL
from understudy.distill_loop.statistics import area_under_curve
from understudy.edge.bundle import Head, decode_head
from understudy.edge.head_math import HeadMath
from understudy.types.errors import BundleError, InvalidValueError

SIZE, CLASSES = 24, 5


def _cloud(rows: int, centres: np.ndarray, seed: int, spread: float = 0.35) -> np.ndarray:
    generator = np.random.default_rng(seed)
    picked = centres[np.arange(rows) % len(centres)]
    noisy = picked + generator.normal(0, spread, (rows, SIZE))
    unit: np.ndarray = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return unit.astype(np.float32)


_CENTRES = np.linalg.qr(np.random.default_rng(1).normal(size=(SIZE, SIZE)))[0]
INSIDE, OUTSIDE = _CENTRES[:CLASSES], (_CENTRES[5:8] + 0.9 * _CENTRES[:3])


def _head(mix: float = 0.3) -> tuple[Head, np.ndarray]:
    known = _cloud(300, INSIDE, 2)
    head = fit_head(known, np.arange(300) % CLASSES, CLASSES, recipe=HeadRecipe(mix=mix))
    return head, known


@pytest.mark.parametrize("mix", [0.0, 0.3])
@pytest.mark.parametrize("per_class", [0, 1, 7])
def test_the_edge_and_the_night_find_a_text_equally_near(mix: float, per_class: int) -> None:
    # The night's numbers set the threshold, the edge's are held against it.
    head, known = _head(mix)
    keep = np.concatenate(
        [np.flatnonzero(head.prototype_labels == c)[:per_class] for c in range(5)]
    )
    head = replace(
        head,
        prototypes=head.prototypes[keep],
        prototype_labels=head.prototype_labels[keep],
        foreign=fit_foreign(head, known, _cloud(40, OUTSIDE, 3)),
    )
    shipped = decode_head(head_bytes(head))
    rows = np.concatenate([_cloud(20, INSIDE, 4), _cloud(20, OUTSIDE, 5)])
    logits, near = HeadMath(shipped).apply(rows)
    ones = [HeadMath(shipped).apply_one(row) for row in rows]
    expected, night = apply_head(shipped, rows)

    assert near == pytest.approx(night, abs=1e-5)
    assert [similarity for _, similarity in ones] == pytest.approx(night.tolist(), abs=1e-5)
    assert logits == pytest.approx(expected, abs=1e-4)
    assert np.abs(near).max() < 1.0


def test_a_background_tells_foreign_texts_better_than_the_nearest_prototype() -> None:
    head, known = _head()
    taught = replace(head, foreign=fit_foreign(head, known, _cloud(60, OUTSIDE, 3)))
    own, out = _cloud(400, INSIDE, 6), _cloud(400, OUTSIDE, 7)

    def apart(of: Head) -> float:
        near = [HeadMath(of).apply(rows)[1].astype(np.float64) for rows in (out, own)]
        return float(area_under_curve(*near))

    assert apart(taught) > apart(head) + 0.03
    same, plain = HeadMath(taught).apply(own)[0], HeadMath(head).apply(own)[0]
    assert same == pytest.approx(plain)  # what it answers is untouched


def test_zero_lies_where_a_twentieth_of_the_taught_rows_would_be_foreign() -> None:
    head, known = _head()
    taught = replace(head, foreign=fit_foreign(head, known, _cloud(60, OUTSIDE, 3)))

    assert (HeadMath(taught).apply(known)[1] < 0).mean() == pytest.approx(0.05, abs=0.01)


def test_too_few_foreign_rows_change_nothing() -> None:
    head, known = _head()
    few = fit_foreign(head, known, _cloud(LEAST_ROWS - 1, OUTSIDE, 3))

    assert few.size == 0
    assert head_bytes(replace(head, foreign=few)) == head_bytes(head)


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.full(SIZE + 1, np.nan, np.float32)])
def test_a_background_that_does_not_fit_is_refused(wrong: np.ndarray) -> None:
    head, _ = _head()
    with pytest.raises((InvalidValueError, BundleError)):
        replace(head, foreign=wrong)


def test_none_of_these_never_becomes_a_class() -> None:
    rows = [replace(row, label="", teacher=teacher_label(NONE_LABEL)) for row in seed_rows(4)]

    assert NONE_LABEL not in label_set((), rows, new_class_rows=3)
