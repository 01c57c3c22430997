"""How soon is drift seen, and how often is it seen where there is none?

23 of BANKING77's intents are unknown when the contract is certified; they arrive later as 10, 20
or 40 % of traffic. Every request passes the production policy, every logged row the monitor: once
as if the teacher's new labels were not told from mistakes, so that audits alone count, and once as
in production, where it also listens for labels that the student cannot say.

python bench/contract_drift.py          10 seeds
python bench/contract_drift.py --full   40 seeds, as reported: 160 control runs of 5,000 requests
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import contract_data as data
import numpy as np
from numpy.typing import NDArray

from understudy.router.certificate import certify
from understudy.router.fit import fit_calibration
from understudy.router.monitor import LiveMonitor
from understudy.router.policy import Policy, Score
from understudy.router.score import Scores, score_many
from understudy.types.contract import Calibration, Certificate, Contract
from understudy.types.decision import Action, Decision, RecordKind
from understudy.types.records import EscalationRecord, LabelScore, LoggedRow, TeacherLabel

KNOWN = 54
SHARES = (0.1, 0.2, 0.4)
AUDIT_RATES = (0.01, 0.02, 0.05, 0.1)
CONTROL_REQUESTS = 5000
MOST_REQUESTS = 40_000


@dataclass(frozen=True, slots=True)
class World:
    """Known and unseen traffic as the student sees it, and what was certified on the known."""

    scores: Scores
    right: NDArray[np.bool_]
    is_new: NDArray[np.bool_]
    known: NDArray[np.int64]
    unseen: NDArray[np.int64]
    certificate: Certificate
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Run:
    """Where a stream raised the alarm; no request when it did not."""

    requests: int | None
    audits: int
    coins: int
    escalated: float


def build(folder: Path, cache: Path) -> World:
    train = data.banking(folder, cache, "train")
    test = data.banking(folder, cache, "test")
    rng = np.random.default_rng(7)
    names = rng.permutation(77)[:KNOWN]
    index = np.full(77, KNOWN)
    index[names] = np.arange(KNOWN)
    rows = rng.permutation(np.flatnonzero(index[train.gold] < KNOWN))
    fit, hold, audit = rows[:-2000], rows[-2000:-1000], rows[-1000:]
    student = data.LinearStudent(train.vectors[fit], index[train.gold[fit]])

    def see(
        vectors: data.Vectors, labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        logits = student.logits(vectors)
        return logits, logits.argmax(1) == labels

    logits, right = see(train.vectors[hold], index[train.gold[hold]])
    near = student.similarity(train.vectors[hold])
    calibration = fit_calibration(logits, near, right, labels=index[train.gold[hold]])
    logits, right = see(train.vectors[audit], index[train.gold[audit]])
    seen = score_many(logits, student.similarity(train.vectors[audit]), calibration)
    certificate = certify(
        seen.effective, right, Contract(max_quality_loss=0.05), new_label=np.zeros(len(right), bool)
    )
    logits, right = see(test.vectors, index[test.gold])
    scores = score_many(logits, student.similarity(test.vectors), calibration)
    unseen = index[test.gold] == KNOWN
    return World(
        scores,
        right,
        unseen,
        np.flatnonzero(~unseen),
        np.flatnonzero(unseen),
        certificate,
        calibration,
    )


def requests(world: World, share: float, rng: np.random.Generator) -> Iterator[int]:
    """Endless traffic with a share of unseen intents."""
    while True:
        strange = rng.random(1000) < share
        yield from np.where(
            strange, rng.choice(world.unseen, 1000), rng.choice(world.known, 1000)
        ).tolist()


LABELS = ("student", "another")
"""What the student can say: its answer, and what it is when that is wrong."""


def logged(world: World, place: int, number: int, decision: Decision, rate: float) -> LoggedRow:
    """The row of the log that the request leaves."""
    kind = RecordKind.ESCALATION if decision.action is Action.ESCALATE else RecordKind.AUDIT
    record = EscalationRecord(
        event_id=str(number),
        task="t",
        bundle="b",
        text="",
        top=(LabelScore("student", 1.0),),
        confidence=float(world.scores.confidence[place]),
        threshold=decision.threshold,
        kind=kind,
        coin=decision.audit,
        audit_rate=rate,
        propensity=decision.propensity,
        created_unix_s=0.0,
    )
    said = "new" if world.is_new[place] else LABELS[not world.right[place]]
    return LoggedRow(number, record, TeacherLabel("t", "p", (said,), (0.0,)), 0.0)


def stream(
    world: World, share: float, rate: float, most: int, seed: int, labels: tuple[str, ...] = ()
) -> Run:
    """Sends traffic until the alarm, or `most` requests; with `labels` it hears of new ones."""
    policy = Policy.from_certificate(
        world.certificate, audit_rate=rate, audit_key=seed.to_bytes(32, "big")
    )
    monitor = LiveMonitor.for_bundle("b", world.certificate, labels)
    audits = coins = escalated = 0
    for number, place in enumerate(requests(world, share, np.random.default_rng(seed)), start=1):
        score = Score(float(world.scores.confidence[place]), bool(world.scores.foreign[place]))
        decision = policy.decide(score, f"{seed}-{number}")
        escalated += decision.action is Action.ESCALATE
        coins += decision.audit
        if decision.action is Action.ESCALATE or decision.audit:
            audits += decision.action is Action.KEEP
            monitor.observe(logged(world, place, number, decision, rate))
        if monitor.alarmed or number >= most:
            return Run(number if monitor.alarmed else None, audits, coins, escalated / number)
    raise AssertionError


def measure(
    world: World, share: float, rate: float, seeds: range, labels: tuple[str, ...] = ()
) -> dict[str, object]:
    """Medians over the seeds for one cell."""
    runs = [stream(world, share, rate, MOST_REQUESTS, seed, labels) for seed in seeds]
    seen = [run for run in runs if run.requests is not None]
    mix = np.concatenate(
        [
            np.full(len(world.known), (1 - share) / len(world.known)),
            np.full(len(world.unseen), share / len(world.unseen)),
        ]
    )
    order = np.concatenate([world.known, world.unseen])
    wrong = (world.scores.effective >= world.certificate.threshold) & ~world.right
    return {
        "unseen": share,
        "audit rate": rate,
        "hears new labels": bool(labels),
        "true risk": float((mix * wrong[order]).sum()),
        "requests": float(np.median([r.requests or MOST_REQUESTS for r in runs])),
        "audited labels": float(np.median([r.audits for r in runs])),
        "worst audited labels": max(r.audits for r in runs),
        "missed": len(runs) - len(seen),
        "escalated": float(np.mean([r.escalated for r in runs])),
    }


def main() -> None:
    parser = data.parser(__doc__ or "")
    parser.add_argument("--news", action="store_true", help="only with new labels heard")
    options = parser.parse_args()
    seeds = range(1, 41 if options.full else 11)
    world = build(options.data, options.cache)
    heard: tuple[tuple[str, ...], ...] = (LABELS,) if options.news else ((), LABELS)
    cells = [
        measure(world, share, rate, seeds, labels)
        for labels in heard
        for share in SHARES
        for rate in AUDIT_RATES
    ]
    control = [
        stream(world, 0.0, rate, CONTROL_REQUESTS, 1000 + seed, heard[-1])
        for rate in AUDIT_RATES
        for seed in seeds
    ]
    false = sum(run.requests is not None for run in control)
    known = world.scores.effective[world.known] >= world.certificate.threshold
    kept, risk = float(known.mean()), float((known & ~world.right[world.known]).mean())
    print(
        f"certified at {world.certificate.threshold:.3f}: keeps {kept:.3f}, true risk {risk:.3f}, "
        f"at most {world.certificate.new_label_bound:.3f} of what escalates is new\n"
    )
    data.table(list(cells[0]), [list(cell.values()) for cell in cells])
    print(f"\nfalse alarms: {false} of {len(control)} control runs of {CONTROL_REQUESTS} requests")
    data.write(
        options.out,
        {
            "cells": cells,
            "control_runs": len(control),
            "false_alarms": false,
            "kept": kept,
            "risk": risk,
        },
    )


if __name__ == "__main__":
    main()
