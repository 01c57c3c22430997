"""From rows to arrays: label indices, soft labels, weights, vectors of the base."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.distil import Lesson
from understudy.distill_loop.recipe import DataRecipe
from understudy.distill_loop.rows import NONE_LABEL, Example, text_key
from understudy.distill_loop.student import StudentModel, encode

Floats = NDArray[np.float32]


def label_set(
    known: Iterable[str], rows: Iterable[Example], *, new_class_rows: int
) -> tuple[str, ...]:
    """Classes of tonight's student: known ones keep their place, new ones are appended.

    Args:
        known: The champion's classes, then the recipe's and the seed's.
        rows: Training rows; a label of theirs that came often enough becomes a class.
        new_class_rows: How often is enough; 0 for never.
    """
    names = list(dict.fromkeys(known))
    if new_class_rows:
        counts = Counter(row.target for row in rows if row.target)
        enough = {name for name, count in counts.items() if count >= new_class_rows}
        names += sorted(enough - {*names, NONE_LABEL})
    return tuple(names)


def label_index(rows: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    """Class index of each row's target, -1 where it is none of `labels`."""
    place = {name: i for i, name in enumerate(labels)}
    return np.array([place.get(row.target, -1) for row in rows], np.int64)


def soft_labels(rows: Sequence[Example], labels: Sequence[str]) -> Floats:
    """The teacher's distributions over `labels`, (N, C); zeros where its best is none of them."""
    place = {name: i for i, name in enumerate(labels)}
    soft = np.zeros((len(rows), len(labels)), np.float32)
    for number, row in enumerate(rows):
        if row.teacher is None or row.teacher.label not in place:
            continue
        for name, log_p in zip(row.teacher.labels, row.teacher.log_probs, strict=True):
            if name in place:
                soft[number, place[name]] = math.exp(log_p)
        soft[number] /= soft[number].sum()
    return soft


def weights_of(
    rows: Sequence[Example], index: NDArray[np.int64], recipe: DataRecipe
) -> NDArray[np.float64]:
    """Training weights with mean 1: tempered propensity, repeats, who said it, class balance.

    Tempered because a weight of 1/0.01 makes one row drown a hundred: (1/p)^gamma, clipped.
    """
    raw = np.array([_tempered(row, recipe) for row in rows], np.float64)
    counts = np.bincount(index[index >= 0], minlength=1)
    if recipe.balance > 0 and counts.any():
        size = counts[np.clip(index, 0, None)].astype(np.float64)
        mean = counts[counts > 0].mean()
        raw *= np.where(index >= 0, (mean / np.maximum(size, 1)) ** recipe.balance, 1.0)
    total = raw.mean() if len(raw) else 1.0
    return raw / (total or 1.0)


def _tempered(row: Example, recipe: DataRecipe) -> float:
    weight = (1.0 / row.propensity) ** recipe.gamma * math.sqrt(row.weight)
    taught = recipe.taught_weight if row.teacher is not None and not row.label else 1.0
    return taught * min(max(weight, 1.0), recipe.max_weight)


def make_lesson(
    rows: Sequence[Example], labels: Sequence[str], vectors: Floats, recipe: DataRecipe
) -> Lesson:
    """What the encoder learns from these rows."""
    index = label_index(rows, labels)
    return Lesson(
        texts=[row.text for row in rows],
        vectors=vectors,
        soft=soft_labels(rows, labels),
        labels=index,
        weights=weights_of(rows, index, recipe).astype(np.float32),
    )


def head_targets(soft: Floats, index: NDArray[np.int64], share: float) -> Floats:
    """What the head learns: teacher's distribution and label, mixed; the label where that is all.

    Args:
        soft: Teacher's distributions, zeros where none, (N, C).
        index: Class index, (N,).
        share: Share of the distribution, in [0, 1].

    Returns:
        Distributions, (N, C), rows sum to 1.
    """
    hard = np.zeros_like(soft)
    hard[np.arange(len(index)), index] = 1.0
    mixed = share * soft + (1.0 - share) * hard
    return np.where(soft.sum(1, keepdims=True) > 0, mixed, hard).astype(np.float32)


Encodes = Callable[[Sequence[str]], Floats]


def by_torch(base: StudentModel) -> Encodes:
    """The base's own vectors."""
    return lambda texts: encode(base, texts)


class VectorCache:
    """Sentence vectors of one encoder by text, kept between nights in one file."""

    def __init__(self, path: Path, encodes: Encodes) -> None:
        self._path, self._encodes = path, encodes

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Vectors (N, D); only texts never seen before are encoded."""
        keys = [text_key(text) for text in texts]
        known = self._read()
        fresh = {k: t for k, t in zip(keys, texts, strict=True) if k not in known}
        if fresh:
            rows = self._encodes(list(fresh.values()))
            known |= dict(zip(fresh, rows, strict=True))
            self._write(known)
        return np.stack([known[k] for k in keys]) if keys else self._encodes([])

    def missing(self, texts: Sequence[str]) -> int:
        """How many of these would have to be encoded."""
        return len({text_key(text) for text in texts} - self._read().keys())

    def _read(self) -> dict[str, Floats]:
        if not self._path.exists():
            return {}
        with np.load(self._path, allow_pickle=False) as data:
            return dict(zip(data["keys"].tolist(), data["rows"].astype(np.float32), strict=True))

    def _write(self, known: dict[str, Floats]) -> None:
        unfinished = self._path.with_name(f".{self._path.name}.unfinished.npz")
        rows = np.stack(list(known.values()))
        np.savez(unfinished, keys=np.array(list(known)), rows=rows)
        unfinished.replace(self._path)
