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


def loss_interval(old: Bools, new: Bools, alpha: float) -> tuple[float, float, float]:
    """Accuracy lost by `new`, with its lower and upper (1 - alpha) bounds."""
    lost, upper = loss_bound(old, new, alpha)
    return lost, -loss_bound(new, old, alpha)[1], upper


def share_bounds(count: int, rows: int, alpha: float) -> tuple[float, float]:
    """Clopper-Pearson bounds of a share, each one-sided at `alpha`."""
    return lower_bound(count, rows, alpha), upper_bound(count, rows, alpha)


def ratio_of_medians(new: Numbers, old: Numbers, alpha: float) -> tuple[float, float, float]:
    """Median of `new` by that of `old`, with bounds by a paired bootstrap; NaN without rows."""
    if not len(new) or len(new) != len(old):
        return math.nan, math.nan, math.nan
    picks = np.random.default_rng(0).integers(0, len(new), (1000, len(new)))
    ratios = np.median(new[picks], axis=1) / np.maximum(np.median(old[picks], axis=1), 1e-9)
    middle = float(np.median(new) / max(float(np.median(old)), 1e-9))
    return middle, float(np.quantile(ratios, alpha)), float(np.quantile(ratios, 1 - alpha))


def mean_bounds(values: Numbers, alpha: float) -> tuple[float, float, float]:
    """A mean with bootstrap bounds, each one-sided at `alpha`; zeros without rows."""
    if not len(values):
        return 0.0, 0.0, 0.0
    picks = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    means = values[picks].mean(1)
    low, high = np.quantile(means, (alpha, 1 - alpha))
    return float(values.mean()), float(low), float(high)


def mistakes_ahead(confidence: Numbers, right: Bools) -> Numbers:
    """What each row adds to the area under the curve of joint risk against escalation, (N,).

    Escalation goes by confidence, so a wrong row counts the share of rows that are surer or as
    sure: wrong where nobody doubts costs most. Its mean is the area.
    """
    order = np.sort(confidence)
    as_doubtful = np.searchsorted(order, confidence, side="right")
    share: Numbers = np.where(right, 0.0, as_doubtful / max(len(confidence), 1))
    return share


def foreign_kept(foreign: Numbers, own: Numbers, kept: float = 0.95) -> float:
    """Share of foreign rows as sure as the surest `kept` of the own ones; NaN if one is empty."""
    if not len(foreign) or not len(own):
        return math.nan
    return float((foreign >= np.quantile(own, 1.0 - kept)).mean())


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


def mean_distance(one: Numbers, other: Numbers, draws: int = 200) -> tuple[float, float]:
    """How far two clouds of unit vectors lie apart, squared, and the p of so far by chance.

    The maximum mean discrepancy of a linear kernel: the squared distance of the two means. Its p
    comes from dealing the rows out anew. NaN if one is empty.
    """
    if not len(one) or not len(other):
        return math.nan, math.nan
    both, cut = np.concatenate([one, other]), len(one)

    def apart(rows: Numbers) -> float:
        gap = rows[:cut].mean(0) - rows[cut:].mean(0)
        return float(gap @ gap)

    generator, found = np.random.default_rng(0), apart(both)
    chance = [apart(both[generator.permutation(len(both))]) for _ in range(draws)]
    return found, (1 + sum(value >= found for value in chance)) / (draws + 1)


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


def area_noise(area: float, low: int, high: int) -> float:
    """Standard error of an area under the curve by Hanley and McNeil, from rows of either kind."""
    if not low or not high:
        return math.nan
    one, two = area / (2 - area), 2 * area * area / (1 + area)
    rest = (high - 1) * (one - area * area) + (low - 1) * (two - area * area)
    return math.sqrt(max(area * (1 - area) + rest, 0.0) / (low * high))


def psi(before: Numbers, after: Numbers) -> float:
    """Population stability index of two histograms of counts."""
    old = (before + 0.5) / (before + 0.5).sum()
    new = (after + 0.5) / (after + 0.5).sum()
    return float(((new - old) * np.log(new / old)).sum())
