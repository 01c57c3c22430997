"""Near-duplicates and probable label errors among rows that train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example

Floats = NDArray[np.float32]
_PERMUTATIONS = 64
_SHINGLE = 5


def dedup_near(rows: Sequence[Example], jaccard: float) -> tuple[Example, ...]:
    """Keeps the first of rows whose character shingles overlap by more than `jaccard`.

    Only rows of the same label are merged: near-twins with different labels are worth learning.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=jaccard, num_perm=_PERMUTATIONS)
    kept: dict[str, Example] = {}
    sketches = MinHash.generator([_shingles(row.text) for row in rows], num_perm=_PERMUTATIONS)
    for row, sketch in zip(rows, sketches, strict=True):
        twins = [name for name in index.query(sketch) if kept[name].target == row.target]
        if twins:
            first = kept[twins[0]]
            kept[twins[0]] = replace(first, weight=first.weight + row.weight)
        else:
            index.insert(row.id, sketch)
            kept[row.id] = row
    return tuple(kept.values())


def label_issues(
    vectors: Floats, index: NDArray[np.int64], recipe: Recipe, folds: int = 3
) -> tuple[float, list[int]]:
    """Rows whose label is probably wrong, worst first, and their share.

    Confident learning (cleanlab, pruning by noise rate) on out-of-fold probabilities of heads on
    the base's vectors. Classes with too few rows to be held out are left alone.
    """
    from cleanlab.filter import find_label_issues

    counts = np.bincount(index[index >= 0], minlength=1)
    usable = np.flatnonzero((index >= 0) & (counts[np.clip(index, 0, None)] >= 2 * folds))
    if len(usable) < 10 * folds:
        return 0.0, []
    classes, labels = np.unique(index[usable], return_inverse=True)
    if len(classes) < 2:
        return 0.0, []
    probabilities = out_of_fold(vectors[usable], labels, len(classes), recipe, folds)
    found = find_label_issues(
        labels,
        probabilities,
        filter_by="prune_by_noise_rate",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return len(found) / len(usable), [int(usable[i]) for i in found]


def out_of_fold(
    vectors: Floats, labels: NDArray[np.int64], classes: int, recipe: Recipe, folds: int
) -> Floats:
    """Probabilities (N, C) of each row by a head that did not see it; rows sum to 1."""
    place = _stratified(labels, folds, recipe.seed)
    probabilities = np.zeros((len(labels), classes), np.float32)
    # Confident learning needs honest probabilities: a stronger penalty than the head that ships.
    quick = replace(recipe.head, iterations=60, l2=1e-4)
    for fold in range(folds):
        out = place == fold
        head = fit_head(vectors[~out], labels[~out], classes, recipe=quick)
        probabilities[out] = softmax(apply_head(head, vectors[out])[0], axis=1)
    return probabilities


def _stratified(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each row; every class is dealt round."""
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        place[rows] = np.arange(len(rows)) % folds
    return place


def _shingles(text: str) -> set[bytes]:
    plain = " ".join(text.casefold().split())
    pieces = {plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1))}
    return {piece.encode() for piece in pieces}
