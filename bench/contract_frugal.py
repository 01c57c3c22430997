"""What does accuracy cost? Four sets of real answers of a cheap model and paid services.

The cheap model is the student, the most accurate paid service the teacher. Half of the rows fit the
score and the thresholds, the other half judges. Three scores: the cheap model's plain confidence;
ours, the calibrated chance to agree with the teacher given confidence and label; and ours with gold
labels on the fitting half, the expected gain of asking.

python bench/contract_frugal.py          one split
python bench/contract_frugal.py --full   ten splits, as reported
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import contract_data as data
import numpy as np
from numpy.typing import NDArray

from understudy.router.fit import isotonic

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHARES = np.linspace(0.0, 1.0, 101)
LEAST = 100
"""Rows a label needs for a map of its own."""


@dataclass(frozen=True, slots=True)
class Half:
    """Some rows: the student's confidence and label, and who is right."""

    confidence: Floats
    label: NDArray[np.str_]
    student: Bools
    teacher: Bools
    agree: Bools


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy on the judging half by share escalated; thresholds come from the fitting half."""

    escalated: Floats
    accuracy: Floats


Score = Callable[[Half], Floats]


def plain(_: Half) -> Score:
    """The cheap model's own confidence."""
    return lambda rows: rows.confidence


def agreement(fit: Half) -> Score:
    """The chance that student and teacher agree."""
    return _by_label(fit, fit.agree.astype(float))


def gain(fit: Half) -> Score:
    """How much surer the student is than the teacher; needs gold labels on the fitting half."""
    student = _by_label(fit, fit.student.astype(float))
    teacher = _falling_or_rising(fit, fit.teacher.astype(float))
    return lambda rows: student(rows) - teacher(rows)


def _by_label(fit: Half, outcome: Floats) -> Score:
    """An isotonic map of the confidence for each label with enough rows, one for the rest."""
    whole = _map(fit.confidence, outcome)
    own = {
        label: _map(fit.confidence[fit.label == label], outcome[fit.label == label])
        for label in np.unique(fit.label)
        if (fit.label == label).sum() >= LEAST
    }

    def apply(rows: Half) -> Floats:
        found = np.interp(rows.confidence, *whole)
        for label, (x, y) in own.items():
            here = rows.label == label
            found[here] = np.interp(rows.confidence[here], x, y)
        return found

    return apply


def _falling_or_rising(fit: Half, outcome: Floats) -> Score:
    """The teacher may be better or worse where the student is sure: the direction is fitted too."""
    rises = np.corrcoef(fit.confidence, outcome)[0, 1] >= 0.0
    if rises:
        return _by_label(fit, outcome)
    wrong = _by_label(fit, 1.0 - outcome)
    return lambda rows: 1.0 - wrong(rows)


def _map(confidence: Floats, outcome: Floats) -> tuple[Floats, Floats]:
    return isotonic(confidence, outcome, np.ones(len(outcome)))


SCORES = {"plain confidence": plain, "ours": agreement, "ours, gold known": gain}


def halves(services: list[data.Service], seed: int) -> tuple[Half, Half]:
    """Fitting half and judging half; confidences scaled to [0, 1]."""
    cheap, best = services[0], services[1]
    scaled = cheap.confidence - cheap.confidence.min()
    scaled = scaled / scaled.max()
    order = np.random.default_rng(seed).permutation(len(scaled))
    agree = cheap.label == best.label

    def part(places: NDArray[np.int64]) -> Half:
        return Half(
            scaled[places],
            cheap.label[places],
            cheap.right[places],
            best.right[places],
            agree[places],
        )

    middle = len(order) // 2
    return part(order[:middle]), part(order[middle:])


def curve(fit: Half, judge: Half, make: Callable[[Half], Score]) -> Curve:
    """Escalates what lies under quantiles of the fitting half's scores; ties are broken evenly."""
    score = make(fit)
    # A hair of the row's own number: equal confidences would else escalate all at once.
    spread = 1e-9 * np.random.default_rng(0).random(len(judge.confidence))
    known = score(fit) + 1e-9 * np.random.default_rng(1).random(len(fit.confidence))
    seen = score(judge) + spread
    thresholds = np.append(np.quantile(known, SHARES[:-1]), np.inf)
    escalate = seen[None, :] < thresholds[:, None]
    right = np.where(escalate, judge.teacher, judge.student)
    return Curve(escalate.mean(axis=1), right.mean(axis=1))


def chosen(fit: Half, make: Callable[[Half], Score]) -> int:
    """The share that is most accurate on the fitting half."""
    return int(np.argmax(curve(fit, fit, make).accuracy))


def judge_set(services: list[data.Service], name: str, seeds: range) -> list[dict[str, object]]:
    """The paid services, and each score's curve in three figures."""
    cheap, best = services[0], services[1]
    rows: list[dict[str, object]] = [
        {"set": name, "policy": s.name, "accuracy": float(s.right.mean()), "cost": s.cost}
        for s in services
    ]
    for label, make in SCORES.items():
        found = []
        for seed in seeds:
            fit, judge = halves(services, seed)
            drawn, best_share = curve(fit, judge, make), chosen(fit, make)
            matches = np.flatnonzero(drawn.accuracy >= judge.teacher.mean())
            found.append(
                (
                    drawn.accuracy[best_share],
                    drawn.escalated[best_share],
                    drawn.accuracy[30],
                    drawn.escalated[matches[0]] if len(matches) else np.nan,
                )
            )
        accuracy, share, third, match = np.nanmean(np.array(found), axis=0)
        rows.append(
            {
                "set": name,
                "policy": label,
                "accuracy": float(accuracy),
                "cost": float(cheap.cost + share * best.cost),
                "at 30 % calls": float(third),
                "calls to match the best service": float(match),
            }
        )
    return rows


def main() -> None:
    options = data.parser(__doc__ or "").parse_args()
    seeds = range(options.seed, options.seed + (10 if options.full else 1))
    rows = [
        row
        for name in data.FRUGAL_SETS
        for row in judge_set(data.frugal(options.data, name), name, seeds)
    ]
    head = ["set", "policy", "accuracy", "cost", "at 30 % calls", "calls to match the best service"]
    data.table(head, [[row.get(name, "") for name in head] for row in rows])
    data.write(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
