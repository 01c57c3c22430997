"""How fast is a refresh, what does it ship, how much does it break, and what did the plan say?

Works on a workspace that `bench/student_banking77.py --full --workspace DIR` left behind: its
student is the champion. A share of the BANKING77 test rows plays the new answers, the rest judges.
Without `--encoder` the head is refreshed and the encoder's bytes stay; with it a whole night runs,
warm from the champion's encoder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from student_banking77 import banking77

from understudy.distill_loop.night import Sources
from understudy.distill_loop.plan import plan_night
from understudy.distill_loop.recipe import Recipe, load_recipe
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.report import write_report
from understudy.distill_loop.rows import Example
from understudy.distill_loop.run import run_night
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=300, help="new answers of the teacher")
    parser.add_argument("--rows", type=int, default=8000, help="rows learned from besides")
    parser.add_argument("--encoder", action="store_true", help="a whole night, not the head alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--anchor", type=float, default=None, help="head.anchor, if not the default"
    )
    parser.add_argument("--page", type=Path, default=None, help="where to write the night's page")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-refresh-")) / "nights"
    shutil.copytree(options.workspace, work)
    champion = next(p for p in sorted((work / "bundles").iterdir()) if p.name[0] != ".")
    train, test, _ = banking77()
    order = np.random.default_rng(17).permutation(len(test))
    news = [test[i] for i in order[: options.answers]]
    judge = [test[i] for i in order[options.answers :]]
    seed = tuple(
        Example(id=f"r{i}", text=train[i][0], label=train[i][1])
        for i in np.random.default_rng(17).permutation(len(train))[: options.rows]
    )
    log = [logged(i, text, label) for i, (text, label) in enumerate(news)]
    sources = Sources(log=log, seed=seed, champion=champion)
    measure = night if options.encoder else refresh
    figures, new = measure(recipe_for(options), Workspace(work), sources)
    before, after = right(champion, judge), right(new, judge)
    report = {
        "rows learned from": options.rows + options.answers,
        **figures,
        "accuracy before": float(before.mean()),
        "accuracy after": float(after.mean()),
        "negative flips": float((before & ~after).mean()),
        "positive flips": float((~before & after).mean()),
    }
    print("| what | value |\n|---|---|")
    for name, value in report.items():
        print(f"| {name} | {round(value, 4) if isinstance(value, float) else value} |")
    if options.page:
        write_report(Workspace(work), "bench", options.page)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


def recipe_for(options: argparse.Namespace) -> Recipe:
    recipe = load_recipe("intents-default")
    anchor = recipe.head.anchor if options.anchor is None else options.anchor
    plain = {"max_drop": 0.0, "near_jaccard": 0.0, "redact": False} if not options.encoder else {}
    return replace(
        recipe,
        data=replace(recipe.data, **plain),
        head=replace(recipe.head, anchor=anchor),
        distil=replace(recipe.distil, threads=options.threads),
        gate=replace(recipe.gate, require_gain=False),
    )


def refresh(recipe: Recipe, work: Workspace, sources: Sources) -> tuple[dict[str, object], Path]:
    # The first refresh finds no vectors of this encoder; later ones encode what is new.
    cold, _ = timed(lambda: refresh_head(recipe, work, replace(sources, log=())))
    later, busy = timed(lambda: refresh_head(recipe, work, sources))
    figures = {
        "seconds, first": cold.seconds,
        "seconds, later": later.seconds,
        "CPU seconds, later": busy,
        "shipped kB": later.shipped_bytes / 1e3,
        "gate": f"{later.ruling} {'; '.join(later.verdict.reasons)}",
    }
    return figures, newest(work)


def night(recipe: Recipe, work: Workspace, sources: Sources) -> tuple[dict[str, object], Path]:
    plan = plan_night(recipe, work, sources)
    start = time.perf_counter()
    result, busy = timed(lambda: run_night(recipe, work, sources, name="bench"))
    minutes = (time.perf_counter() - start) / 60
    folder = work.folder / "bundles" / result.challenger
    bundle = read_bundle(folder)
    figures = {
        "threads": recipe.distil.threads,
        "steps": plan.steps,
        "minutes": minutes,
        "minutes planned": plan.minutes,
        "CPU minutes": busy / 60,
        "encoder MB": len(bundle.files["encoder.onnx"]) / 1e6,
        "encoder MB planned": plan.encoder_megabytes,
        "bundle MB": sum(map(len, bundle.files.values())) / 1e6,
        "bundle MB planned": plan.shipped_megabytes,
        "teacher calls": result.teacher_calls,
        "teacher calls planned": plan.teacher_calls,
        "gate": f"{result.ruling} {'; '.join(result.reasons)}",
        **{f"seconds, {stage}": seconds for stage, seconds in result.seconds.items()},
    }
    return figures, folder


def newest(work: Workspace) -> Path:
    return max((work.folder / "bundles").iterdir(), key=lambda p: p.stat().st_mtime)


def timed(run: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    return run(), time.process_time() - start


def logged(number: int, text: str, label: str) -> LoggedRow:
    record = EscalationRecord(
        event_id=f"new-{number}",
        task="classify",
        bundle="",
        text=text,
        top=(),
        confidence=0.5,
        threshold=0.9,
        kind=RecordKind.ESCALATION,
        coin=number % 3 == 0,
        audit_rate=0.33,
        propensity=1.0,
        created_unix_s=0.0,
    )
    return LoggedRow(number, record, TeacherLabel("gold", "bench", (label,), (0.0,)), 0.0)


def right(bundle: Path, rows: list[tuple[str, str]]) -> np.ndarray:
    student = Student.load(read_bundle(bundle))
    said = student.run([text for text, _ in rows]).logits.argmax(1)
    return np.array([student.labels[i] == y for i, (_, y) in zip(said, rows, strict=True)])


if __name__ == "__main__":
    main()
