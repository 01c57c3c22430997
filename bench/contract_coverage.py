"""Does the certificate hold? Hundreds of calibrations, each judged on a population that is known.

python bench/contract_coverage.py          100 calibrations a cell
python bench/contract_coverage.py --full   600 calibrations a cell, as reported
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contract_data as data
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from understudy.router.certificate import certify
from understudy.router.fit import fit_calibration
from understudy.router.score import score_many
from understudy.types.contract import Contract, RiskKind

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
DELTA = 0.05


@dataclass(frozen=True, slots=True)
class Population:
    """All the traffic there is: confidence and error of every request, surest first."""

    name: str
    confidence: Floats
    error: Bools

    def risk(self, threshold: float, *, selective: bool) -> float:
        kept = self.confidence >= threshold
        wrong = (kept & self.error).mean()
        return float(wrong / max(kept.mean(), 1e-12)) if selective else float(wrong)

    def kept(self, threshold: float) -> float:
        return float((self.confidence >= threshold).mean())


def ours(sure: Floats, error: Bools, rate: float, kind: RiskKind) -> float:
    contract = Contract(max_quality_loss=rate, confidence=1 - DELTA, kind=kind)
    return certify(sure, ~error, contract).threshold


def average(sure: Floats, error: Bools, rate: float, kind: RiskKind) -> float:
    """Conformal risk control; it has no selective form of its own, so that bounds k+1 of n+1."""
    if kind is RiskKind.JOINT:
        return ours(sure, error, rate, RiskKind.AVERAGE)
    return _lowest(sure, error, lambda k, m, _n: (k + 1) / (m + 1) <= rate)


def empirical(sure: Floats, error: Bools, rate: float, kind: RiskKind) -> float:
    joint = kind is RiskKind.JOINT
    return _lowest(sure, error, lambda k, m, n: k / (n if joint else m) <= rate)


def hoeffding(sure: Floats, error: Bools, rate: float, kind: RiskKind) -> float:
    """The last passing threshold of a sweep, as other products do it."""

    def passes(k: int, kept: int, rows: int) -> bool:
        base = rows if kind is RiskKind.JOINT else kept
        return k / base + math.sqrt(math.log(1 / DELTA) / (2 * base)) <= rate

    return _lowest(sure, error, passes)


def _lowest(sure: Floats, error: Bools, passes: Callable[[int, int, int], bool]) -> float:
    """The lowest threshold that passes on its own, whatever those above it do."""
    order = np.argsort(-sure, kind="stable")
    ranked, wrong = sure[order], np.cumsum(error[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    good = [i for i in ends if passes(int(wrong[i]), int(i) + 1, len(ranked))]
    return float(ranked[good[-1]]) if good else math.inf


METHODS = {
    "certificate (ours)": ours,
    "empirical": empirical,
    "Hoeffding sweep": hoeffding,
    "risk control in expectation": average,
}


def banking_populations(folder: Path, cache: Path) -> list[Population]:
    """One student trained on gold; teachers: gold, and GPT-4."""
    train = data.banking(folder, cache, "train")
    order = np.random.default_rng(0).permutation(len(train.gold))
    fit, hold = order[:8000], order[8000:]
    student = data.LinearStudent(train.vectors[fit], train.gold[fit])
    logits = student.logits(train.vectors[hold])
    agree = logits.argmax(1) == train.gold[hold]
    calibration = fit_calibration(
        logits,
        student.similarity(train.vectors[hold]),
        agree,
        labels=train.gold[hold],
        foreign_share=0.0,
    )
    found = []
    for name, rows in (
        ("BANKING77, gold", data.banking(folder, cache, "test")),
        ("BANKING77, GPT-4", data.gpt4_stream(folder, cache)),
    ):
        logits = student.logits(rows.vectors)
        sure = score_many(logits, student.similarity(rows.vectors), calibration)
        found.append(Population(name, sure.confidence, logits.argmax(1) != rows.teacher))
    return found


def frugal_population(folder: Path, name: str) -> Population:
    """The cheap model as student, the best paid service as teacher."""
    cheap, best, *_ = data.frugal(folder, name)
    sure = cheap.confidence - cheap.confidence.min()
    return Population(f"FrugalML {name}", sure / sure.max(), cheap.label != best.label)


def judge(
    people: Population, rate: float, kind: RiskKind, rows: int, runs: int, seed: int
) -> list[dict[str, object]]:
    """Runs every method on the same calibrations."""
    selective = kind is RiskKind.SELECTIVE
    broken = dict.fromkeys(METHODS, 0)
    kept: dict[str, list[float]] = {name: [] for name in METHODS}
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        drawn = rng.integers(0, len(people.error), rows)
        for name, method in METHODS.items():
            threshold = method(people.confidence[drawn], people.error[drawn], rate, kind)
            broken[name] += people.risk(threshold, selective=selective) > rate
            kept[name].append(people.kept(threshold))
    most = int(stats.binom.ppf(0.975, runs, DELTA))
    return [
        {
            "population": people.name,
            "risk": kind.value,
            "rate": rate,
            "rows": rows,
            "method": name,
            "broken": broken[name] / runs,
            "kept": float(np.mean(kept[name])),
            "holds": broken[name] <= most,
        }
        for name in METHODS
    ]


def main() -> None:
    options = data.parser(__doc__ or "").parse_args()
    runs = 600 if options.full else 100
    cells = [(p, r) for p in banking_populations(options.data, options.cache) for r in (0.05, 0.1)]
    cells += [
        (frugal_population(options.data, name), rate)
        for name, rate in zip(data.FRUGAL_SETS, (0.2, 0.2, 0.2, 0.05), strict=True)
    ]
    results = [
        row
        for people, rate in cells
        for kind in (RiskKind.JOINT, RiskKind.SELECTIVE)
        for row in judge(people, rate, kind, 1000, runs, options.seed)
    ]
    head = ("population", "risk", "rate", "method", "broken", "kept", "holds")
    data.table(head, [[row[name] for name in head] for row in results])
    data.write(options.out, {"runs": runs, "delta": DELTA, "cells": results})


if __name__ == "__main__":
    main()
