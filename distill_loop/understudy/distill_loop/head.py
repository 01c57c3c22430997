"""The head: multinomial logistic regression on sentence vectors, beside nearest prototypes.

Fitted in seconds on the vectors of the encoder that ships, with hard or soft targets, by L-BFGS.
Few rows a class lean on the prototypes, many on the linear part. The file stays under a bound:
prototypes are merged (spherical k-means within their class) until it does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from threadpoolctl import threadpool_limits

from understudy.distill_loop.recipe import HeadRecipe
from understudy.edge.bundle import Head, encode_head
from understudy.types.errors import DataError

Floats = NDArray[np.float32]
_ABSENT = -12.0
"""Bias of a class without rows: e^-12 keeps it possible and never the answer."""


def fit_head(
    vectors: Floats,
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    sample_weight: NDArray[np.float64] | None = None,
    soft: Floats | None = None,
    start: Head | None = None,
    recipe: HeadRecipe | None = None,
) -> Head:
    """Fits the head.

    Args:
        vectors: Sentence vectors, unit rows, (N, D).
        labels: Class index of each row, (N,).
        n_classes: Number of classes C; classes without rows are allowed.
        sample_weight: Weight of each row, (N,); ones when omitted.
        soft: Distributions to learn instead of the labels, (N, C), rows sum to 1.
        start: Head to start from and to stay near; it may lack the last classes.
        recipe: Penalty, mix and size; the defaults when omitted.

    Raises:
        DataError: If there are no rows.
    """
    if not len(vectors):
        raise DataError("a head cannot be fitted on no rows: label some first")
    settings = recipe or HeadRecipe()
    targets = np.eye(n_classes, dtype=np.float32)[labels] if soft is None else soft
    weights = np.ones(len(vectors)) if sample_weight is None else sample_weight
    weight, bias = _regress(vectors, targets, weights / weights.mean(), start, settings)
    present = np.bincount(labels, minlength=n_classes) > 0
    bias = np.where(present, bias, np.minimum(bias, _ABSENT + bias.max(initial=0.0, where=present)))
    weight = np.where(present[:, None], weight, 0.0)
    room = _prototype_room(n_classes, vectors.shape[1], settings.max_bytes)
    prototypes, owners = pick_prototypes(vectors, labels, room, settings.prototypes)
    return Head(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        prototypes=prototypes,
        prototype_labels=owners,
        mix=settings.mix if len(prototypes) else 0.0,
        sharpness=settings.sharpness,
    )


def head_bytes(head: Head) -> bytes:
    """The head's file: half precision, so that 150 classes still fit the bound."""
    return encode_head(head, half=True)


def apply_head(head: Head, vectors: Floats) -> tuple[Floats, Floats]:
    """Logits (N, C) and similarity (N,), by the formula of the bundle format.

    For heads that never ship, such as those of a cross-validation; what ships is run by the edge.
    """
    logits = vectors @ head.weight.T + head.bias
    if not len(head.prototypes):
        return logits, _near(head, vectors, logits, np.ones(len(vectors), np.float32))
    cosines = vectors @ head.prototypes.T
    best = np.full_like(logits, -1.0)
    for label in np.unique(head.prototype_labels):
        best[:, label] = cosines[:, head.prototype_labels == label].max(1)
    linear, near = softmax(logits, axis=1), softmax(head.sharpness * best, axis=1)
    mixed = (1 - head.mix) * linear + head.mix * near
    log_p = np.log(np.maximum(mixed, np.finfo(np.float32).tiny)).astype(np.float32)
    return log_p, _near(head, vectors, logits, cosines.max(1))


def _near(head: Head, vectors: Floats, logits: Floats, cosine: Floats) -> Floats:
    """How near rows are to what was taught, (N,): by the background where the head has one."""
    if not head.foreign.size:
        return cosine
    above = logsumexp(logits, axis=1) - vectors @ head.foreign[:-1] - head.foreign[-1]
    return (above / (1.0 + np.abs(above))).astype(np.float32)


def pick_prototypes(
    vectors: Floats, labels: NDArray[np.int64], room: int, per_class: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Chooses at most `room` unit vectors that stand for the classes' rows.

    Classes get shares of the room by the square root of their rows, at least one each while the
    room lasts. A class with no more rows than its share keeps its rows; others are merged.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = _shares(counts, room, per_class)
    picked = [
        (_merge(vectors[labels == c], int(share)), int(c))
        for c, share in zip(classes, shares, strict=True)
        if share
    ]
    if not picked:
        return np.zeros((0, vectors.shape[1]), np.float32), np.zeros(0, np.int64)
    owners = np.concatenate([np.full(len(rows), c, np.int64) for rows, c in picked])
    return np.concatenate([rows for rows, _ in picked]).astype(np.float32), owners


def _regress(
    vectors: Floats,
    targets: Floats,
    weights: NDArray[np.float64],
    start: Head | None,
    settings: HeadRecipe,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L-BFGS on the mean weighted cross-entropy plus an L2 penalty; float32 sums, float64 steps.

    A head to start from also holds what it knows: leaving its weights costs `settings.anchor`.
    """
    rows, size = vectors.shape
    classes = targets.shape[1]
    # Few rows need a stronger hand: a hundredth of a row's weight, or the recipe's if that is more.
    penalty = max(settings.l2, 0.01 / rows)
    scaled = (weights / rows).astype(np.float32)[:, None]
    first, known = _first(start, classes, size)
    anchor = settings.anchor * known
    home = first[: classes * size].reshape(classes, size)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat[: classes * size].reshape(classes, size)
        logits = vectors @ weight.T.astype(np.float32) + flat[classes * size :].astype(np.float32)
        logits -= logits.max(1, keepdims=True)
        share = np.exp(logits)
        total = share.sum(1, keepdims=True)
        # Targets sum to 1, so the cross-entropy needs no logarithm of every share.
        losses = np.log(total) - np.einsum("ij,ij->i", targets, logits)[:, None]
        share /= total
        share -= targets
        share *= scaled
        away = weight - home
        gradient = (share.T @ vectors).astype(np.float64) + penalty * weight + anchor * away
        value = float((losses * scaled).sum(dtype=np.float64))
        value += 0.5 * float((penalty * weight * weight + anchor * away * away).sum())
        return value, np.concatenate([gradient.ravel(), share.sum(0).astype(np.float64)])

    options = {"maxiter": settings.iterations, "maxcor": 10, "ftol": 1e-7, "gtol": 1e-6}
    # Sums this small gain nothing from a second thread and wait long for it on a busy machine:
    # measured 0.3 against 7.8 CPU seconds for 900 rows beside two other processes.
    with threadpool_limits(1, user_api="blas"):
        flat = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return flat[: classes * size].reshape(classes, size), flat[classes * size :]


def _first(
    start: Head | None, classes: int, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the solver begins, and which classes a head before knew, 1 or 0, (C, 1).

    Classes keep their places, so a head that knows fewer is one that lacks the last rows.
    """
    weight, bias = np.zeros((classes, size)), np.zeros(classes)
    known = np.zeros((classes, 1))
    if start is not None and start.weight.shape[1] == size and len(start.bias) <= classes:
        before = len(start.bias)
        weight[:before], bias[:before] = start.weight, np.maximum(start.bias, -5.0)
        known[:before] = 1.0
    return np.concatenate([weight.ravel(), bias]), known


def _prototype_room(classes: int, size: int, max_bytes: int) -> int:
    """How many half-precision prototypes fit beside the weights; 4 kB go to names and headers.

    At least one a class, even above the bound: a class without any would look foreign.
    """
    left = max_bytes - 4096 - classes * (2 * size + 4)
    return max(classes, left // (2 * size + 4))


def _shares(counts: NDArray[np.int64], room: int, per_class: int) -> NDArray[np.int64]:
    wish = np.sqrt(counts)
    shares = np.floor(wish / wish.sum() * room).astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    if room < len(counts):
        shares[:] = 0
        shares[order[:room]] = 1
    return np.minimum(np.minimum(np.maximum(shares, room >= len(counts)), counts), per_class)


def _merge(rows: Floats, count: int, rounds: int = 8) -> Floats:
    """Spherical k-means from farthest-first seeds; deterministic."""
    if len(rows) <= count:
        return rows
    mean = _unit(rows.mean(0, keepdims=True))
    centres = rows[[int(np.argmax(rows @ mean[0]))]]
    while len(centres) < count:
        nearest = (rows @ centres.T).max(1)
        centres = np.concatenate([centres, rows[[int(np.argmin(nearest))]]])
    for _ in range(rounds):
        owner = (rows @ centres.T).argmax(1)
        sums = np.eye(count, dtype=rows.dtype)[owner].T @ rows
        empty = ~np.isin(np.arange(count), owner)
        sums[empty] = centres[empty]
        centres = _unit(sums)
    return centres


def _unit(rows: Floats) -> Floats:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
