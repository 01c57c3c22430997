"""Do teacher calls fall night by night, and does the contract hold while intents arrive?

BANKING77: a student from 10 rows an intent over 60 of the 77 intents; the other 17 arrive on day 3.
The teacher is all-MiniLM-L6-v2 with a linear head on the full training set. Each day a seventh of
the other training rows passes; what the policy escalates or audits is logged, and a night follows.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from student_banking77 import banking77, teacher_labels

from understudy.distill_loop.base import find_base
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import HeadRecipe, Recipe, load_recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.run import first_student, run_night
from understudy.distill_loop.student import encode, whole_base
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.student import Student
from understudy.router.score import score_many
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel


@dataclass(frozen=True)
class Request:
    id: str
    text: str
    label: str
    teacher: TeacherLabel


def the_recipe(name: str, threads: int) -> Recipe:
    recipe = load_recipe(name)
    return replace(
        recipe,
        data=replace(recipe.data, max_drop=0.0, near_jaccard=0.0, redact=False),
        split=replace(
            recipe.split,
            uncertified_unbiased=True,
            unbiased_train=0.4,
            unbiased_calibration=0.15,
        ),
        distil=replace(recipe.distil, threads=threads),
        gate=replace(recipe.gate, require_gain=False, latency_ratio=3.0),
    )


def the_world(days: int, seed: int) -> tuple[list[Request], list[list[Request]]]:
    """Seed requests of the 60 early intents, and the requests of each day."""
    train, _, _ = banking77()
    names = sorted({label for _, label in train})
    texts = [text for text, _ in train]
    vectors = encode(whole_base(find_base("minilm"), max_tokens=64), texts)
    index = np.array([names.index(label) for _, label in train])
    head = fit_head(vectors, index, len(names), recipe=HeadRecipe(mix=0.0, max_bytes=2_000_000))
    said = teacher_labels(head, vectors, names)
    rows = [
        Request(f"q{i}", t, y, s) for i, ((t, y), s) in enumerate(zip(train, said, strict=True))
    ]
    chance = random.Random(seed)
    chance.shuffle(rows)
    early = set(chance.sample(names, 60))
    seeds, rest, taken = [], [], dict.fromkeys(early, 0)
    for row in rows:
        if row.label in early and taken[row.label] < 10:
            taken[row.label] += 1
            seeds.append(row)
        else:
            rest.append(row)
    return seeds, deal(rest, early, days)


def deal(rest: list[Request], early: set[str], days: int) -> list[list[Request]]:
    """Days of equal size; rows of late intents only from day 3 on."""
    late = [row for row in rest if row.label not in early]
    known = [row for row in rest if row.label in early]
    size = len(rest) // days
    first = [known[:size], known[size : 2 * size]]
    later = known[2 * size :] + late
    random.Random(1).shuffle(later)
    return [*first, *(later[i * size : (i + 1) * size] for i in range(days - 2))]


def one_day(
    bundle_dir: Path, requests: list[Request], rate: float, day: int
) -> tuple[list[LoggedRow], dict[str, Any]]:
    """What the policy does with a day's requests, and what of it is logged."""
    bundle = read_bundle(bundle_dir)
    student = Student.load(bundle)
    output = student.run([row.text for row in requests])
    sure = score_many(output.logits, output.similarity, bundle.calibration).effective
    threshold = bundle.certificate.threshold
    chance = random.Random(1000 + day)
    log, kept, wrong, calls, right = [], 0, 0, 0, 0
    for row, confidence, best in zip(requests, sure, output.logits.argmax(1), strict=True):
        coin = chance.random() < rate
        keep = confidence >= threshold and threshold < NEVER_KEEP
        said = student.labels[best]
        kept += keep
        wrong += keep and said != row.teacher.label
        right += (said if keep else row.teacher.label) == row.label
        calls += coin or not keep
        if coin or not keep:
            log.append(
                logged(row, float(confidence), bundle, coin=coin, keep=keep, rate=rate, day=day)
            )
    size = len(requests)
    return log, {
        "day": day,
        "requests": size,
        "certified": bundle.certificate.certified,
        "teacher calls": calls / size,
        "joint risk": wrong / size,
        "system accuracy": right / size,
        "student agrees": float(
            np.mean(
                [
                    student.labels[b] == r.teacher.label
                    for b, r in zip(output.logits.argmax(1), requests, strict=True)
                ]
            )
        ),
        "classes": len(student.labels),
    }


def logged(
    row: Request,
    confidence: float,
    bundle: Bundle,
    *,
    coin: bool,
    keep: bool,
    rate: float,
    day: int,
) -> LoggedRow:
    record = EscalationRecord(
        event_id=row.id,
        task="classify",
        bundle=bundle.id,
        text=row.text,
        top=(),
        confidence=max(confidence, 0.0),
        threshold=bundle.certificate.threshold,
        kind=RecordKind.AUDIT if keep else RecordKind.ESCALATION,
        coin=coin,
        audit_rate=rate,
        propensity=rate if keep else 1.0,
        created_unix_s=1.8e9 + day * 86_400.0,
        node=f"n{int(row.id[1:]) % 40}",
    )
    return LoggedRow(int(row.id[1:]), record, row.teacher, 1.8e9 + day * 86_400.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="head-only", help="intents-default trains the encoder")
    parser.add_argument("--full", action="store_true", help="seven days; else three")
    parser.add_argument("--audit-rate", type=float, default=0.08)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rng", type=int, default=17)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    seeds, days = the_world(7, options.rng)
    recipe = the_recipe(options.recipe, options.threads)
    workspace = Workspace(tempfile.mkdtemp(prefix="bench-seven-"))
    seed = [Example(id=r.id, text=r.text, label=r.label, teacher=r.teacher) for r in seeds]
    bundle = first_student(recipe, workspace, seed).directory
    log: list[LoggedRow] = []
    report = []
    names = (
        "day",
        "requests",
        "certified",
        "teacher calls",
        "joint risk",
        "system accuracy",
        "student agrees",
        "classes",
        "night",
        "seconds",
    )
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for day, requests in enumerate(days[: 7 if options.full else 3], start=1):
        fresh, line = one_day(bundle, requests, options.audit_rate, day)
        log += fresh
        start = time.perf_counter()
        night = run_night(
            recipe,
            workspace,
            Sources(
                log=log, seed=tuple(seed), champion=bundle, now_unix_s=1.8e9 + (day + 0.5) * 86_400
            ),
            name=f"night-{day}",
        )
        bundle = night.directory
        verdict = f"{night.ruling}{', renewed' if night.renewed else ''}"
        line |= {"night": verdict, "seconds": time.perf_counter() - start, "reasons": night.reasons}
        report.append(line)
        print("| " + " | ".join(cell(line[name]) for name in names) + " |", flush=True)
        for reason in night.reasons:
            print(f"<!-- {reason} -->", flush=True)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


def cell(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.3f}" if value < 10 else f"{value:.0f}"
    return str(value)


if __name__ == "__main__":
    main()
