"""Fits a calibration: temperature, the learned score, its isotonic map, the foreign-input limit.

Give it training rows only: rows that certify must not have had a part in what they certify. What
is fitted here decides how much can be kept, never whether the contract holds. Numpy and scipy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from understudy.router.score import (
    FEATURES,
    SCORES,
    Floats,
    features,
    raw_score,
    score_many,
    sigmoid,
    usable,
)
from understudy.types.contract import Calibration
from understudy.types.errors import DataError, InvalidValueError

LEAST_ROWS = 20
"""Fewer rows leave the defaults in place: nothing fitted on them would be worth its noise."""
MOST_KNOTS = 64
PENALTY = 1.0
"""L2 penalty of the learned score, on standardised features, in rows."""
_ROUNDING = 1e-5
"""What moves less is constant but for rounding, such as the energy of log-probabilities."""
FOREIGN_SHARE = 0.005
"""Share of training rows the foreign-input limit gives up."""


def fit_calibration(
    logits: ArrayLike,
    similarities: ArrayLike,
    agree: ArrayLike,
    *,
    score: str = "learned",
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    foreign_share: float = FOREIGN_SHARE,
) -> Calibration:
    """Fits how a student's numbers become one confidence.

    Args:
        logits: The student's numbers on training rows, shape (N, C), as the shipped graph gives
            them; rows that cannot be used are left out.
        similarities: Highest cosine to anything taught, shape (N,). Leave a row's own prototype
            out, or training rows look nearer than new ones will.
        agree: 1 where student and teacher agree, shape (N,).
        score: Name of the score, one of `score.SCORES`.
        labels: The teacher's class of each row, shape (N,); for the temperature, which stays 1
            without.
        weights: Weight of each row, such as 1 / propensity; ones when omitted.
        foreign_share: Share of these rows that may count as foreign; 0 switches the check off.

    Raises:
        DataError: If there are no usable rows.
        InvalidValueError: If shapes do not fit, or the score is unknown.
    """
    rows = _Rows(logits, similarities, agree, labels, weights)
    if score not in SCORES:
        raise InvalidValueError(f"score must be one of {', '.join(SCORES)}, not {score!r}")
    limit = _foreign_limit(rows.near, foreign_share)
    plain = "margin" if score == "learned" else score
    if len(rows.agree) < LEAST_ROWS or rows.agree.min() == rows.agree.max():
        return Calibration(score=plain, ood_threshold=limit)
    temperature = 1.0
    if rows.labels is not None:
        temperature = fit_temperature(rows.logits, rows.labels, rows.weights)
    found = features(rows.logits, rows.near, temperature)
    fitted = Calibration(temperature=temperature, score=score, ood_threshold=limit)
    if score == "learned":
        fitted = replace(fitted, weights=fit_deferral(found, rows.agree, rows.weights))
    knots = isotonic(raw_score(found, fitted), rows.agree, rows.weights)
    return replace(fitted, knots_x=tuple(knots[0].tolist()), knots_y=tuple(knots[1].tolist()))


class _Rows:
    """The usable training rows, checked."""

    def __init__(
        self,
        logits: ArrayLike,
        similarities: ArrayLike,
        agree: ArrayLike,
        labels: ArrayLike | None,
        weights: ArrayLike | None,
    ) -> None:
        numbers = np.asarray(logits, dtype=np.float64)
        near = np.asarray(similarities, dtype=np.float64)
        same = np.asarray(agree, dtype=np.float64)
        mass = np.ones(len(same)) if weights is None else np.asarray(weights, dtype=np.float64)
        right = None if labels is None else np.asarray(labels, dtype=np.int64)
        columns = [near, same, mass] if right is None else [near, same, mass, right]
        if numbers.ndim != 2 or any(c.shape != (len(numbers),) for c in columns):
            raise InvalidValueError("a calibration needs (N, C) logits and N of everything else")
        good = usable(numbers) & np.isfinite(near) & np.isin(same, (0.0, 1.0)) & (mass > 0.0)
        if not good.any():
            raise DataError(
                "none of the training rows has usable scores and an agreement of 0 or 1"
            )
        self.logits, self.near, self.agree = numbers[good], near[good], same[good]
        self.weights = mass[good] / mass[good].mean()
        self.labels = None if right is None else right[good]


def fit_temperature(logits: Floats, labels: NDArray[np.int64], weights: Floats) -> float:
    """Finds the temperature, in [0.05, 20], under which the labels are likeliest."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        return float((weights * (log_total - scaled[rows, labels])).mean())

    bounds = (np.log(0.05), np.log(20.0))
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def fit_deferral(found: dict[str, Floats], agree: Floats, weights: Floats) -> dict[str, float]:
    """Fits the learned score: logistic regression of the agreement on the features.

    Features are standardised for the fit and the result is written back in their own units, so
    that the applied form is one number a feature.
    """
    names = [n for n in FEATURES if float(found[n].std()) > _ROUNDING]
    table = np.stack([found[n] for n in names], axis=1)
    mean, spread = table.mean(axis=0), table.std(axis=0)
    scaled = np.column_stack([np.ones(len(table)), (table - mean) / spread])

    def loss(beta: Floats) -> tuple[float, Floats]:
        value = scaled @ beta
        gradient = scaled.T @ (weights * (sigmoid(value) - agree))
        penalty = PENALTY * np.concatenate([[0.0], beta[1:]])
        total = (weights * (np.logaddexp(0.0, value) - agree * value)).sum()
        return float(total + 0.5 * penalty @ beta), gradient + penalty

    beta = optimize.minimize(loss, np.zeros(scaled.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = beta[1:] / spread
    fitted = dict(zip(names, slopes.tolist(), strict=True))
    return {"bias": float(beta[0] - slopes @ mean), **fitted}


def isotonic(raw: Floats, agree: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Fits a rising map from raw score to agreement; returns knots, both strictly rising in x.

    Blocks of pooled scores become their weighted centres; joined by straight lines, they order
    rows within a block as the raw score does. The ends keep the order beyond the outermost block.
    """
    order = np.argsort(raw, kind="stable")
    fit = optimize.isotonic_regression(agree[order], weights=weights[order])
    starts = fit.blocks[:-1]
    mass = np.add.reduceat(weights[order], starts)
    x = np.add.reduceat(raw[order] * weights[order], starts) / mass
    y = np.add.reduceat(agree[order] * weights[order], starts) / mass
    x, y = _thin(x, y, mass)
    # Shrunk a little: no block is proof of certainty, and the ends stay strictly beyond it.
    y = (len(raw) * y + 0.5) / (len(raw) + 1.0)
    low, high = min(0.0, float(x[0]) - 1e-6), max(1.0, float(x[-1]) + 1e-6)
    x = np.concatenate([[low], x, [high]])
    y = np.concatenate([[y[0] * 0.5], y, [0.5 * (1.0 + y[-1])]])
    return _strictly_rising(x, y)


def _thin(x: Floats, y: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """Keeps at most `MOST_KNOTS` blocks, evenly by the rows they stand for."""
    if len(x) <= MOST_KNOTS:
        return x, y
    place = np.searchsorted(np.cumsum(mass), np.linspace(0.0, mass.sum(), MOST_KNOTS))
    chosen = np.unique(np.minimum(place, len(x) - 1))
    return x[chosen], y[chosen]


def _strictly_rising(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    rising = np.concatenate([[True], np.diff(x) > 1e-12])
    return x[rising], np.clip(y[rising], 0.0, 1.0)


def _foreign_limit(similarities: Floats, share: float) -> float:
    """The similarity under which an input is foreign; -1 switches the check off."""
    if not 0.0 <= share < 1.0:
        raise InvalidValueError(f"foreign_share must lie in [0, 1), not {share}")
    if share == 0.0 or len(similarities) < LEAST_ROWS:
        return -1.0
    return float(np.quantile(similarities, share, method="lower"))


def calibration_error(
    calibration: Calibration, logits: ArrayLike, similarities: ArrayLike, agree: ArrayLike
) -> float:
    """The mean absolute gap between confidence and agreement over ten bins (ECE), in [0, 1]."""
    sure = score_many(logits, similarities, calibration).confidence
    same = np.asarray(agree, dtype=np.float64)
    bins = np.minimum((sure * 10).astype(int), 9)
    gaps = [
        abs(sure[bins == b].mean() - same[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))
