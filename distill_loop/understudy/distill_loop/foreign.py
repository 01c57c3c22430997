"""Telling requests outside every class from those inside: learned from what fitted none.

A head has one number for each class; the background is one number more, for none of them. With the
classes' numbers as they are, it is a logistic regression on the sentence vector, fitted in a tenth
of a second on rows of which the teacher said that no class fits. What the edge compares is the
classes' energy with half of it: half, because a few hundred foreign rows show only some of what is
foreign, and the energy alone knows about the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from understudy.edge.bundle import Head

Floats = NDArray[np.float32]
LEAST_ROWS = 20
"""With fewer foreign rows the nearest prototype decides, as without any."""
TRUST = 0.5
PENALTY = 1e-4
SHARE = 0.1
"""Weight of all foreign rows beside that of all known ones."""


def fit_foreign(head: Head, known: Floats, foreign: Floats) -> Floats:
    """Fits the background.

    Args:
        head: The head whose classes are known.
        known: Sentence vectors of rows that some class fits, (N, D).
        foreign: Of rows that none fits, (F, D).

    Returns:
        Weights and, last, the bias, (D + 1,), for `Head.foreign`; empty below `LEAST_ROWS`.
    """
    if len(foreign) < LEAST_ROWS or not len(known):
        return np.zeros(0, np.float32)
    rows = np.concatenate([known, foreign])
    energy = logsumexp(rows @ head.weight.T + head.bias, axis=1)
    outside = np.arange(len(rows)) >= len(known)
    weights = np.where(outside, SHARE / len(foreign), 1.0 / len(known))

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gap = rows @ flat[:-1].astype(np.float32) + flat[-1] - energy
        residual = weights * (expit(gap) - outside)
        value = float((weights * (np.logaddexp(0.0, gap) - outside * gap)).sum())
        slope = (rows.T @ residual.astype(np.float32)).astype(np.float64) + PENALTY * flat[:-1]
        penalty = 0.5 * PENALTY * float(flat[:-1] @ flat[:-1])
        return value + penalty, np.append(slope, residual.sum())

    first = np.append(np.zeros(rows.shape[1]), energy.mean())
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return _centred(TRUST * found, energy, rows, outside)


def _centred(
    flat: NDArray[np.float64], energy: Floats, rows: Floats, outside: NDArray[np.bool_]
) -> Floats:
    """With a bias that puts zero where a twentieth of the known rows would be called foreign."""
    above = energy - rows @ flat[:-1].astype(np.float32)
    limit = np.quantile(above[~outside], 0.05)
    return np.append(flat[:-1], limit).astype(np.float32)
