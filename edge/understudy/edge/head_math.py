"""A head's arithmetic at the edge: sentence vectors in, logits and nearness out."""

from __future__ import annotations

import math

import numpy as np

from understudy.edge.parts import Floats, Head

_TINY = float(np.finfo(np.float32).tiny)


class HeadMath:
    """The head's arithmetic, laid out for speed once.

    Classes and prototypes stand in one matrix, so that one product serves both; both softmaxes are
    one. A class without prototypes has a column that is -1 for every text, the lowest cosine.
    """

    def __init__(self, head: Head) -> None:
        self.classes, self.size = head.weight.shape
        self._mixed = bool(len(head.prototypes))
        self._mix = np.array([1.0 - head.mix, head.mix], np.float32)
        self._sharpness = np.float32(head.sharpness)
        self._ones = np.ones(self.classes, np.float32)
        groups = _groups(head) if self._mixed else []
        rows, offsets = [head.weight], [head.bias]
        for group in groups:
            rows.append(
                (group if len(group) else np.zeros((1, self.size), np.float32)) * self._sharpness
            )
            offsets.append(np.full(max(1, len(group)), 0.0 if len(group) else -self._sharpness))
        self._matrix = np.ascontiguousarray(np.concatenate(rows).T, np.float32)
        self._offsets = np.concatenate(offsets).astype(np.float32)
        sizes = [1] * self.classes + [max(1, len(group)) for group in groups]
        # The usual head has one prototype a class: then a column is its class's best already.
        self._starts = np.cumsum([0, *sizes[:-1]]) if max(sizes) > 1 else None
        self._by_background = bool(head.foreign.size)
        self._background = np.ascontiguousarray(head.foreign[:-1])
        self._limit = float(head.foreign[-1]) if head.foreign.size else 0.0

    def apply(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Unit rows (B, D) to logits (B, C) and similarity (B,)."""
        products = vectors @ self._matrix
        products += self._offsets
        if not self._mixed:
            return products, self._alone(products, vectors)
        if self._starts is not None:
            products = np.maximum.reduceat(products, self._starts, axis=1)
        pairs = products.reshape(len(vectors), 2, self.classes)
        highest = np.maximum.reduce(pairs, axis=2)
        pairs -= highest[:, :, None]
        powers = np.exp(pairs, out=pairs)
        totals = np.add.reduce(powers, axis=2)
        mixed = ((self._mix / totals)[:, None, :] @ powers)[:, 0]
        np.maximum(mixed, _TINY, out=mixed)
        near = highest[:, 1] / self._sharpness
        if self._by_background:
            near = _squashed(highest[:, 0] + np.log(totals[:, 0]) - self._outside(vectors))
        return np.log(mixed, out=mixed), near

    def apply_one(self, vector: Floats) -> tuple[Floats, float]:
        """As `apply`, for one row (D,): arrays with one axis take numpy half the time."""
        products = vector.dot(self._matrix)
        products += self._offsets
        if not self._mixed:
            return products, float(self._alone(products[None], vector[None])[0])
        if self._starts is not None:
            products = np.maximum.reduceat(products, self._starts)
        logits, near = products[: self.classes], products[self.classes :]
        lead = logits.item(logits.argmax())
        logits -= lead
        highest = near.item(near.argmax())
        near -= highest
        np.exp(products, out=products)
        total = float(logits.dot(self._ones))
        logits *= self._mix.item(0) / total
        near *= self._mix.item(1) / float(near.dot(self._ones))
        logits += near
        np.maximum(logits, _TINY, out=logits)
        similarity = highest / self._sharpness.item()
        if self._by_background:
            above = lead + math.log(total) - float(vector.dot(self._background)) - self._limit
            similarity = above / (1.0 + abs(above))
        return np.log(logits, out=logits), similarity

    def _outside(self, vectors: Floats) -> Floats:
        """What the energy must exceed, (B,)."""
        outside: Floats = vectors @ self._background + np.float32(self._limit)
        return outside

    def _alone(self, logits: Floats, vectors: Floats) -> Floats:
        """Similarity of rows whose head has no prototypes, (B,)."""
        if not self._by_background:
            return np.ones(len(vectors), np.float32)
        lead = logits.max(axis=1)
        energy = lead + np.log(np.exp(logits - lead[:, None]).sum(axis=1))
        return _squashed(energy - self._outside(vectors))


def _squashed(above: Floats) -> Floats:
    """Differences of log-odds brought between -1 and 1, order kept however large they are."""
    return (above / (1.0 + np.abs(above))).astype(np.float32, copy=False)


def _groups(head: Head) -> list[Floats]:
    """The prototypes of each class, shape (P of the class, D)."""
    return [head.prototypes[head.prototype_labels == label] for label in range(len(head.weight))]
