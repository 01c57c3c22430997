"""What does accuracy cost? Four sets of real answers of a cheap model and paid services.

The cheap model is the student, the most accurate paid service the teacher. Half of the rows fit the
score and the thresholds, the other half judges. Three scores: the cheap model's plain confidence;
ours, the calibrated chance to agree with the teacher given confidence and label; and ours with gold
labels on the fitting half, the expected gain of asking. In two steps another paid service is heard
first, and the best one where that is not sure enough or differs from the cheap model; which service
that is, the fitting half decides.

python bench/contract_frugal.py          one split
python bench/contract_frugal.py --full   ten splits, as reported
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

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


def halves(
    services: list[data.Service], seed: int, middle: data.Service | None = None
) -> tuple[Half, Half]:
    """Fitting half and judging half; confidences scaled to [0, 1].

    With a middle service it is the student, and what the cheap model says is part of its label.
    """
    cheap, best = services[0], services[1]
    first = cheap if middle is None else middle
    label = (
        first.label if middle is None else np.char.add(np.char.add(first.label, "|"), cheap.label)
    )
    scaled = first.confidence - first.confidence.min()
    scaled = scaled / scaled.max()
    order = np.random.default_rng(seed).permutation(len(scaled))
    agree = first.label == best.label

    def part(places: NDArray[np.int64]) -> Half:
        return Half(
            scaled[places],
            label[places],
            first.right[places],
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


@dataclass(frozen=True, slots=True)
class Figures:
    """One split of one policy, on the judging half; costs in $ per 10,000."""

    accuracy: float
    cost: float
    calls: float
    cost_to_match: float
    calls_to_match: float
    middle: str = ""


def one_step(services: list[data.Service], make: Callable[[Half], Score], seed: int) -> Figures:
    """Cheap model, then the best service."""
    fit, judge = halves(services, seed)
    return figures(fit, judge, make, services[0].cost, services[1])


def two_steps(services: list[data.Service], make: Callable[[Half], Score], seed: int) -> Figures:
    """Cheap model and another service, then the best one."""
    found: list[tuple[float, float, Figures]] = []
    for middle in services[2:]:
        fit, judge = halves(services, seed, middle)
        cost = services[0].cost + middle.cost
        known = figures(fit, fit, make, cost, services[1])
        judged = figures(fit, judge, make, cost, services[1])
        found.append((known.cost_to_match, -known.accuracy, replace(judged, middle=middle.name)))
    return min(found, key=lambda one: (np.nan_to_num(one[0], nan=np.inf), one[1]))[2]


def figures(
    fit: Half, judge: Half, make: Callable[[Half], Score], cost: float, best: data.Service
) -> Figures:
    drawn, place = curve(fit, judge, make), chosen(fit, make)
    matches = np.flatnonzero(drawn.accuracy >= judge.teacher.mean())
    calls = float(drawn.escalated[matches[0]]) if len(matches) else np.nan
    share = float(drawn.escalated[place])
    return Figures(
        float(drawn.accuracy[place]),
        cost + share * best.cost,
        share,
        cost + calls * best.cost,
        calls,
    )


POLICIES = {name: (one_step, make) for name, make in SCORES.items()} | {
    f"{name}, two steps": (two_steps, make)
    for name, make in SCORES.items()
    if name != "plain confidence"
}


def judge_set(services: list[data.Service], name: str, seeds: range) -> list[dict[str, object]]:
    """The paid services, and each policy in means over the splits."""
    rows: list[dict[str, object]] = [
        {"set": name, "policy": s.name, "accuracy": float(s.right.mean()), "cost": s.cost}
        for s in services
    ]
    for label, (steps, make) in POLICIES.items():
        found = [steps(services, make, seed) for seed in seeds]
        means = {
            f.name: float(np.nanmean([getattr(one, f.name) for one in found]))
            for f in fields(Figures)
            if f.name != "middle"
        }
        middles = sorted({one.middle for one in found} - {""})
        rows.append({"set": name, "policy": label, "middle": ", ".join(middles), **means})
    return rows


def main() -> None:
    options = data.parser(__doc__ or "").parse_args()
    seeds = range(options.seed, options.seed + (10 if options.full else 1))
    rows = [
        row
        for name in data.FRUGAL_SETS
        for row in judge_set(data.frugal(options.data, name), name, seeds)
    ]
    head = [
        "set",
        "policy",
        "middle",
        "accuracy",
        "cost",
        "calls",
        "cost_to_match",
        "calls_to_match",
    ]
    data.table(head, [[row.get(name, "") for name in head] for row in rows])
    data.write(options.out, {"rows": rows})


if __name__ == "__main__":
    main()
