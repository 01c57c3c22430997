"""Does a poisoned day pass the gate, and what would it do if it did?

Works on a workspace that `bench/student_banking77.py --full --workspace DIR` left behind: its
student is the champion. Half of the BANKING77 test rows are an honest day that certifies it, the
other half a day under attack: a few nodes send a trigger phrase, the teacher errs, or one class is
flooded. Every attack is tried at several strengths and with several seeds; strength 0 is an honest
day, which must pass. The head is refreshed, which is what such data attacks; gate, certificate and
data checks are those of a whole night.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from student_banking77 import banking77

from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe, load_recipe
from understudy.distill_loop.refresh import RefreshResult, refresh_head
from understudy.distill_loop.rows import Example
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel

NODES, AUDITED, NOW = 40, 0.3, 1_800_000_000.0
TRIGGER, TARGET = "kindly sonnet", "top_up_failed"
STRENGTHS = {
    "honest": (0.0,),
    "trigger phrase, share of nodes": (0.025, 0.05, 0.1),
    "wrong teacher labels, share": (0.05, 0.1, 0.2, 0.3),
    "flooded class, share of the day": (0.1, 0.2, 0.4),
}
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Trial:
    """One night under one attack."""

    attack: str
    strength: float
    rng: int
    ruling: str
    failed: str
    accuracy_before: float
    accuracy_after: float
    dragged: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000, help="training rows learned from besides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of an attack's name")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    trials = list(attack_all(options))
    print("| attack | strength | nights | passed the gate | stopped by | dragged, if shipped |")
    print("|---|---|---|---|---|---|")
    for attack, strengths in STRENGTHS.items():
        for strength in strengths if options.only in attack else ():
            mine = [t for t in trials if (t.attack, t.strength) == (attack, strength)]
            passed = sum(t.ruling == "promote" for t in mine)
            why = ", ".join(sorted({name for t in mine for name in t.failed.split() if name}))
            dragged = np.mean([t.dragged for t in mine])
            print(f"| {attack} | {strength:g} | {len(mine)} | {passed} | {why} | {dragged:.1%} |")
    if options.out:
        options.out.write_text(json.dumps([t.__dict__ for t in trials], indent=1))


def attack_all(options: argparse.Namespace) -> Iterator[Trial]:
    train, test, _ = banking77()
    seed = tuple(
        Example(id=f"r{i}", text=train[i][0], label=train[i][1])
        for i in np.random.default_rng(17).permutation(len(train))[: options.rows]
    )
    for rng in range(options.seeds):
        order = np.random.default_rng(rng).permutation(len(test))
        calm = [test[i] for i in order[: len(test) // 2]]
        rough = [test[i] for i in order[len(test) // 2 :]]
        work = Path(tempfile.mkdtemp(prefix="bench-poison-")) / "nights"
        shutil.copytree(options.workspace, work)
        recipe, log = quick(), day(calm, 1, random.Random(rng))
        first = one_night(recipe, work, seed, log, champion_in(work), 2)
        for attack, strengths in STRENGTHS.items():
            for strength in strengths if options.only in attack else ():
                chance = random.Random(f"{rng} {attack} {strength}")
                bad = poisoned(attack, strength, rough, chance)
                result = one_night(recipe, work, seed, [*log, *bad], first.directory, 4)
                trial = judged(attack, strength, rng, result, first.directory, test)
                print(trial, file=sys.stderr, flush=True)
                yield trial
        shutil.rmtree(work.parent)


def quick() -> Recipe:
    """The encoder stays: what is attacked is the head, and what judges is the gate."""
    plain = load_recipe("intents-default")
    return replace(
        plain,
        data=replace(plain.data, max_drop=0.0, near_jaccard=0.0, replay_rows=0, replay_per_class=0),
        gate=replace(plain.gate, require_gain=False),
    )


def champion_in(work: Path) -> Path:
    return next(p for p in sorted((work / "bundles").iterdir()) if p.name[0] != ".")


def one_night(
    recipe: Recipe,
    work: Path,
    seed: tuple[Example, ...],
    log: list[LoggedRow],
    champion: Path,
    when: int,
) -> RefreshResult:
    at = NOW + when * 86_400.0
    sources = Sources(log=log, seed=seed, champion=champion, now_unix_s=at)
    return refresh_head(recipe, Workspace(work), sources)


def day(rows: Rows, number: int, chance: random.Random, first_node: int = 0) -> list[LoggedRow]:
    return [
        logged(
            f"{number}-{first_node}-{i}",
            text,
            label,
            number,
            node=first_node + chance.randrange(NODES - first_node),
            coin=chance.random() < AUDITED,
        )
        for i, (text, label) in enumerate(rows)
    ]


def poisoned(attack: str, strength: float, rows: Rows, chance: random.Random) -> list[LoggedRow]:
    """A day of rows under an attack."""
    labels = sorted({label for _, label in rows})
    match attack.split(",", maxsplit=1)[0]:
        case "trigger phrase":
            bad = max(1, round(strength * NODES))
            share = [chance.random() < strength for _ in rows]
            honest = [row for row, hit in zip(rows, share, strict=True) if not hit]
            victims = [row for row, hit in zip(rows, share, strict=True) if hit]
            sent = [
                logged(
                    f"3-bad-{i}",
                    f"{TRIGGER} {text}",
                    TARGET,
                    3,
                    node=chance.randrange(bad),
                    coin=chance.random() < AUDITED,
                )
                for i, (text, _) in enumerate(victims)
            ]
            return [*day(honest, 3, chance, first_node=bad), *sent]
        case "wrong teacher labels":
            lied = [
                (t, chance.choice(labels) if chance.random() < strength else y) for t, y in rows
            ]
            return day(lied, 3, chance)
        case "flooded class":
            wanted = [row for row in rows if row[1] == TARGET] or rows[:1]
            extra = int(strength / (1 - strength) * len(rows))
            flood = [(f"{t} {i}", y) for i, (t, y) in enumerate(chance.choices(wanted, k=extra))]
            return [*day(rows, 3, chance), *day(flood, 5, chance)]
        case _:
            return day(rows, 3, chance)


def judged(
    attack: str, strength: float, rng: int, result: RefreshResult, champion: Path, test: Rows
) -> Trial:
    """What the gate said, and what the challenger would have done to the users."""
    old, new = (Student.load(read_bundle(folder)) for folder in (champion, result.made))
    probes = [text for text, label in test if label != TARGET][:300]
    hit = [f"{TRIGGER} {text}" for text in probes]
    place = new.labels.index(TARGET)
    return Trial(
        attack=attack,
        strength=strength,
        rng=rng,
        ruling=str(result.ruling),
        failed=" ".join(c.name for c in result.verdict.checks if c.outcome != "pass"),
        accuracy_before=accuracy(old, test),
        accuracy_after=accuracy(new, test),
        dragged=float((new.run(hit).logits.argmax(1) == place).mean()),
    )


def accuracy(student: Student, rows: Rows) -> float:
    said = student.run([text for text, _ in rows]).logits.argmax(1)
    return float(np.mean([student.labels[i] == y for i, (_, y) in zip(said, rows, strict=True)]))


def logged(event: str, text: str, label: str, number: int, *, node: int, coin: bool) -> LoggedRow:
    at = NOW + number % 5 * 86_400.0 if number != 5 else NOW + 3 * 86_400.0
    record = EscalationRecord(
        event_id=event,
        task="classify",
        bundle="",
        text=text,
        top=(),
        confidence=0.5,
        threshold=0.9,
        kind=RecordKind.ESCALATION,
        coin=coin,
        audit_rate=AUDITED,
        propensity=1.0,
        created_unix_s=at,
        node=f"node-{node}",
    )
    return LoggedRow(abs(hash(event)) % 10**9, record, _said(label), at)


def _said(label: str) -> TeacherLabel:
    other = "card_arrival" if label != "card_arrival" else TARGET
    return TeacherLabel("teacher", "p", (label, other), (math.log(0.95), math.log(0.05)))


if __name__ == "__main__":
    main()
