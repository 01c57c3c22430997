"""From a student's numbers to one confidence.

Every score lies in [0, 1] and rises with certainty; the isotonic map of the calibration turns it
into the probability that the teacher would agree. Numbers that cannot be used never become a
confidence: not finite, fewer than two, not as many as classes, or one-hot (a saturated softmax says
nothing about doubt).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.router.policy import INVALID, Score
from understudy.types.contract import Calibration
from understudy.types.errors import InvalidValueError

ONE_HOT_GAP = 87.0
"""Logit gap beyond which a float32 softmax of the runner-up is zero: the scores are one-hot."""
FEATURES = ("gap", "margin", "max_prob", "entropy", "energy", "similarity")
"""What the learned score weighs, beside its `bias`."""
_KNOWN = frozenset({"bias", *FEATURES})
SCORES = ("margin", "max_prob", "entropy", "energy", "learned")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a batch of numbers is worth; three arrays of shape (B,).

    Attributes:
        confidence: Calibrated confidence, in [0, 1]; 0 where not valid.
        foreign: True where the input resembles nothing taught.
        valid: False where the numbers cannot be used.
    """

    confidence: Floats
    foreign: NDArray[np.bool_]
    valid: NDArray[np.bool_]

    @property
    def effective(self) -> Floats:
        """The confidence the policy acts on: -1, below every threshold, where it must escalate."""
        return np.where(self.valid & ~self.foreign, self.confidence, -1.0)


class Judged(NamedTuple):
    """One row of numbers, judged.

    Attributes:
        score: What it is worth.
        best: Indices of the best classes, best first; empty when the numbers cannot be used.
        shares: Their probabilities at the calibration's temperature, same order.
    """

    score: Score
    best: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()


_NOTHING = Judged(INVALID)


def score(
    logits: ArrayLike, similarity: float, calibration: Calibration, *, classes: int | None = None
) -> Score:
    """Scores one row.

    Args:
        logits: The student's numbers, shape (C,).
        similarity: Highest cosine to anything taught, in [-1, 1].
        calibration: The bundle's calibration.
        classes: How many numbers there must be; not checked when omitted.
    """
    return judge(logits, similarity, calibration, classes=classes).score


def judge(
    logits: ArrayLike,
    similarity: float,
    calibration: Calibration,
    *,
    classes: int | None = None,
    top: int = 2,
) -> Judged:
    """Scores one row and names its best classes; the hot path.

    Every call of numpy counts here: one sort serves extremes and best classes, one exponential
    serves score and probabilities, and products with `dot` cost a fourth of a reduction.

    Args:
        logits: The student's numbers, shape (C,).
        similarity: Highest cosine to anything taught, in [-1, 1].
        calibration: The bundle's calibration.
        classes: How many numbers there must be; not checked when omitted.
        top: How many classes to name, at least 2.
    """
    try:
        row = np.asarray(logits, dtype=np.float64)
    except (TypeError, ValueError):
        return _NOTHING
    if row.ndim != 1 or row.size < 2 or (classes is not None and row.size != classes):
        return _NOTHING
    similarity, order = float(similarity), row.argsort()
    best = order[: -top - 1 : -1].tolist()
    # What is not a number sorts last, so first and last vouch for all between.
    lead, second, least = row.item(best[0]), row.item(best[1]), row.item(order.item(0))
    if not (math.isfinite(lead) and math.isfinite(least) and math.isfinite(similarity)):
        return _NOTHING
    if lead - second >= ONE_HOT_GAP or (lead == 1.0 and second == least == 0.0):
        return _NOTHING
    shifted = row - lead
    if calibration.temperature != 1.0:
        shifted /= calibration.temperature
    powers = np.exp(shifted)
    total = float(powers.dot(_ones(row.size)))
    found = _row_features(
        (lead - second) / calibration.temperature,
        total,
        float(powers.dot(shifted)) / total,
        lead / calibration.temperature,
        similarity,
        row.size,
    )
    confidence = _interpolate(_row_raw_score(found, calibration), calibration)
    worth = Score(confidence, similarity < calibration.ood_threshold)
    return Judged(worth, tuple(best), tuple([powers.item(place) / total for place in best]))


@lru_cache(maxsize=16)
def _ones(size: int) -> Floats:
    return np.ones(size)


def _row_features(
    gap: float, total: float, mean: float, lead: float, similarity: float, classes: int
) -> dict[str, float]:
    """What `features` gives, for one row and several times as fast.

    `total` and `mean` are over p = exp(z - lead) of the scaled logits z: sum(p), and the mean of
    z - lead under p.
    """
    log_total = math.log(total)
    entropy = (log_total - mean) / math.log(classes)
    return {
        "bias": 1.0,
        "gap": gap,
        "margin": (1.0 - math.exp(-gap)) / total,
        "max_prob": 1.0 / total,
        "entropy": min(max(entropy, 0.0), 1.0),
        "energy": lead + log_total,
        "similarity": similarity,
    }


def _row_raw_score(found: Mapping[str, float], calibration: Calibration) -> float:
    """What `raw_score` gives, for one row."""
    name = calibration.score
    if name in {"margin", "max_prob"}:
        return found[name]
    if name == "entropy":
        return 1.0 - found["entropy"]
    if name == "learned":
        try:
            weighed = [w * found[n] for n, w in calibration.weights.items()]
        except KeyError:
            weighed = []
        if not weighed:
            check_weights(calibration.weights)
        return _sigmoid(sum(weighed))
    if name == "energy":
        return _sigmoid(found["energy"])
    raise InvalidValueError(f"score must be one of {', '.join(SCORES)}, not {name!r}")


def _interpolate(raw: float, calibration: Calibration) -> float:
    """The isotonic map at one score; flat beyond its ends."""
    x, y = calibration.knots_x, calibration.knots_y
    if x:
        place = bisect.bisect_right(x, raw)
        if 0 < place < len(x):
            share = (raw - x[place - 1]) / (x[place] - x[place - 1])
            raw = y[place - 1] + share * (y[place] - y[place - 1])
        else:
            raw = y[min(place, len(x) - 1)]
    return min(max(raw, 0.0), 1.0)


def _sigmoid(value: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * value))


def score_many(logits: ArrayLike, similarities: ArrayLike, calibration: Calibration) -> Scores:
    """Scores a batch.

    Args:
        logits: The student's numbers, shape (B, C).
        similarities: Highest cosine to anything taught, shape (B,).
        calibration: The bundle's calibration.

    Raises:
        InvalidValueError: If the shapes do not fit each other.
    """
    rows = np.asarray(logits, dtype=np.float64)
    near = np.asarray(similarities, dtype=np.float64)
    if rows.ndim != 2 or near.shape != rows.shape[:1]:
        raise InvalidValueError(f"logits {rows.shape} and similarities {near.shape} do not fit")
    valid = usable(rows) & np.isfinite(near)
    confidence = np.zeros(len(rows))
    if valid.any():
        confidence[valid] = confidences(rows[valid], near[valid], calibration)
    return Scores(confidence, valid & (near < calibration.ood_threshold), valid)


def usable(logits: Floats) -> NDArray[np.bool_]:
    """Says which rows can be used, shape (B,)."""
    if logits.shape[1] < 2:
        return np.zeros(len(logits), dtype=bool)
    finite: Bools = np.all(np.isfinite(logits), axis=1)
    safe = np.where(finite[:, None], logits, 0.0)
    best, second = top_two(safe)
    ones, zeros = np.sum(safe == 1.0, axis=1), np.sum(safe == 0.0, axis=1)
    hard = (ones == 1) & (zeros == safe.shape[1] - 1)
    found: Bools = finite & (best - second < ONE_HOT_GAP) & ~hard
    return found


def confidences(logits: Floats, similarities: Floats, calibration: Calibration) -> Floats:
    """Turns usable rows into confidences, shape (B,)."""
    found = features(logits, similarities, calibration.temperature)
    raw = raw_score(found, calibration)
    if calibration.knots_x:
        raw = np.interp(raw, calibration.knots_x, calibration.knots_y)
    return np.clip(raw, 0.0, 1.0)


def raw_score(found: dict[str, Floats], calibration: Calibration) -> Floats:
    """Picks or computes the score before the isotonic map, in [0, 1].

    Raises:
        InvalidValueError: If the calibration names a score or a feature that does not exist.
    """
    match calibration.score:
        case "margin" | "max_prob":
            return found[calibration.score]
        case "entropy":
            return 1.0 - found["entropy"]
        case "energy":
            return sigmoid(found["energy"])
        case "learned":
            return sigmoid(linear(found, calibration.weights))
        case unknown:
            raise InvalidValueError(f"score must be one of {', '.join(SCORES)}, not {unknown!r}")


def linear(found: dict[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Weighs the features; `bias` is the constant."""
    check_weights(weights)
    total = np.full(len(found["gap"]), weights.get("bias", 0.0))
    for name in FEATURES:
        if name in weights:
            total += weights[name] * found[name]
    return total


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuses weights no learned score can have.

    Raises:
        InvalidValueError: If there are none, or one is of a feature that does not exist.
    """
    if not weights or not _KNOWN.issuperset(weights):
        raise InvalidValueError(f"a learned score weighs {', '.join(FEATURES)}, not {[*weights]}")


def features(logits: Floats, similarities: Floats, temperature: float) -> dict[str, Floats]:
    """Computes what scores are made of, arrays of shape (B,) by name.

    `gap`: difference of the two best scaled logits; `margin`: of the two best probabilities;
    `entropy`: as a share of its maximum; `energy`: log-sum-exp of the scaled logits.
    """
    scaled = logits / temperature
    best, second = top_two(scaled)
    shifted = np.exp(scaled - best[:, None])
    total = shifted.sum(axis=1)
    log_total = np.log(total)
    # H = log Z - sum(p z), with z measured from the best logit.
    mean = (shifted * (scaled - best[:, None])).sum(axis=1) / total
    entropy = (log_total - mean) / math.log(logits.shape[1])
    return {
        "gap": best - second,
        "margin": (1.0 - np.exp(second - best)) / total,
        "max_prob": 1.0 / total,
        "entropy": np.clip(entropy, 0.0, 1.0),
        "energy": best + log_total,
        "similarity": similarities,
    }


def top_two(rows: Floats) -> tuple[Floats, Floats]:
    """Finds the best and the second best of each row, two arrays of shape (B,)."""
    split = np.partition(rows, rows.shape[1] - 2, axis=1)
    return split[:, -1], split[:, -2]


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))
