"""The rows a head learned from: fits heads on them, whole or out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.foreign import fit_foreign
from understudy.distill_loop.head import apply_head
from understudy.distill_loop.lesson import head_targets, label_index, soft_labels, weights_of
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.edge.bundle import Head
from understudy.edge.student import StudentOutput
from understudy.types.errors import DataError

Floats = NDArray[np.float32]


class Taught:
    """Training rows as the head sees them, and vectors of rows that no class fits."""

    def __init__(
        self,
        rows: Sequence[Example],
        vectors: Floats,
        labels: tuple[str, ...],
        recipe: Recipe,
        foreign: Floats | None = None,
    ) -> None:
        if not rows:
            raise DataError("no training row has a label that the student knows")
        self._vectors, self._recipe = vectors, recipe
        self._foreign = vectors[:0] if foreign is None else foreign
        self._index = label_index(rows, labels)
        soft = soft_labels(rows, labels)
        self._soft = head_targets(soft, self._index, recipe.head.soft)
        self._weights = weights_of(rows, self._index, recipe.data)

    def fit(
        self,
        candidate: Candidate,
        rows: NDArray[np.bool_] | None = None,
        start: Head | None = None,
    ) -> Candidate:
        """The candidate with a head fitted on all rows, or on a mask of them."""
        use = np.ones(len(self._index), np.bool_) if rows is None else rows
        fitted = parts.with_head(
            candidate,
            self._vectors[use],
            self._index[use],
            soft=self._soft[use],
            weights=self._weights[use],
            start=start,
            recipe=self._recipe.head,
        )
        background = fit_foreign(fitted.head, self._vectors[use], self._foreign)
        return replace(fitted, head=replace(fitted.head, foreign=background))

    def out_of_fold(
        self, candidate: Candidate, folds: int = 3
    ) -> tuple[StudentOutput, NDArray[np.float64]]:
        """Numbers of heads that did not see the row, with their agreement: for the calibration."""
        size = len(self._index)
        place = np.random.default_rng(self._recipe.seed).permutation(size) % folds
        logits = np.zeros((size, len(candidate.labels)), np.float32)
        near = np.zeros(size, np.float32)
        for fold in range(min(folds, size)):
            out = place == fold
            if out.all():
                continue
            head = self.fit(candidate, ~out).head
            logits[out], near[out] = apply_head(head, self._vectors[out])
        output = StudentOutput(logits, self._vectors, near, np.zeros(size, np.bool_))
        return output, (logits.argmax(1) == self._index).astype(np.float64)
