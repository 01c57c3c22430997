"""The few tests the gate needs, exact where they can be."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binomtest, norm

Bools = NDArray[np.bool_]
Numbers = NDArray[np.float64]


def mcnemar(old: Bools, new: Bools) -> float:
    """One-sided exact p that `new` is no better: P[Bin(fixed + broken, 1/2) >= fixed]."""
    fixed, broken = int((~old & new).sum()), int((old & ~new).sum())
    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5, alternative="greater").pvalue)


def loss_bound(old: Bools, new: Bools, alpha: float) -> tuple[float, float]:
    """Accuracy lost by `new`, and its upper (1 - alpha) bound.

    Paired normal interval; one further discordant row is added, so that zero rows of difference on
    a small sample do not look like certainty.
    """
    rows = len(old)
    if rows == 0:
        return 0.0, 1.0
    broken, fixed = int((old & ~new).sum()), int((~old & new).sum())
    lost = (broken - fixed) / rows
    variance = (broken + fixed + 1 - (broken - fixed) ** 2 / rows) / rows**2
    return lost, lost + float(norm.ppf(1 - alpha)) * math.sqrt(max(variance, 0.0))


def share_noise(share: float, rows: int) -> float:
    """What a share of so many rows moves by chance: one standard error; 0 without rows."""
    return math.sqrt(share * (1.0 - share) / rows) if rows else 0.0


def upper_bound(count: int, rows: int, alpha: float) -> float:
    """Clopper-Pearson upper bound of a share."""
    if rows == 0 or count >= rows:
        return 1.0
    return float(beta.ppf(1 - alpha, count + 1, rows - count))


def lower_bound(count: int, rows: int, alpha: float) -> float:
    """Clopper-Pearson lower bound of a share."""
    if rows == 0 or count == 0:
        return 0.0
    return float(beta.ppf(alpha, count, rows - count + 1))


def gain_is_sure(old: Numbers, new: Numbers, draws: int = 1000, alpha: float = 0.05) -> bool:
    """True if the lower bound of a paired bootstrap of the mean gain lies above zero."""
    gain = new - old
    if not len(gain) or not gain.any():
        return False
    picks = np.random.default_rng(0).integers(0, len(gain), (draws, len(gain)))
    return bool(np.quantile(gain[picks].mean(1), alpha / 2) > 0)


def calibration_error(confidence: Numbers, right: Bools, bins: int = 15) -> float:
    """Expected calibration error over equal-mass bins; NaN with under ten rows a bin.

    Rows that must escalate whatever their confidence (-1) do not count.
    """
    usable = confidence >= 0
    confidence, right = confidence[usable], right[usable]
    count = min(bins, len(confidence) // 10)
    if count < 2:
        return math.nan
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, count)
    gaps = [len(p) * abs(float(confidence[p].mean()) - float(right[p].mean())) for p in parts]
    return sum(gaps) / len(confidence)


def calibration_noise(confidence: Numbers, bins: int = 15) -> float:
    """What a perfectly calibrated student would show: the mean gap that chance alone makes."""
    usable = confidence[confidence >= 0]
    count = max(min(bins, len(usable) // 10), 1)
    spread = float(np.sqrt(np.clip(usable * (1 - usable), 0, None).mean())) if len(usable) else 0.0
    return math.sqrt(2 / math.pi) * spread * math.sqrt(count / max(len(usable), 1))


def slice_loss(old: Bools, new: Bools) -> tuple[float, float]:
    """Accuracy lost in a slice and the exact one-sided p of losing that much by chance."""
    return float(old.mean() - new.mean()), mcnemar(new, old)


def holm(p_values: Mapping[str, float], alpha: float) -> list[str]:
    """Names whose p stays significant under Holm's correction."""
    found: list[str] = []
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (len(p_values) - rank):
            break
        found.append(name)
    return found


def area_under_curve(low: Numbers, high: Numbers) -> float:
    """P(a number of `high` is larger than one of `low`), ties half; NaN if one is empty."""
    if not len(low) or not len(high):
        return math.nan
    order = np.sort(low)
    below = np.searchsorted(order, high, side="left")
    same = np.searchsorted(order, high, side="right") - below
    return float((below + 0.5 * same).mean() / len(low))


def psi(before: Numbers, after: Numbers) -> float:
    """Population stability index of two histograms of counts."""
    old = (before + 0.5) / (before + 0.5).sum()
    new = (after + 0.5) / (after + 0.5).sum()
    return float(((new - old) * np.log(new / old)).sum())
