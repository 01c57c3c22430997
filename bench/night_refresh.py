"""How fast is a head-only refresh, what does it ship, and how much does it break?

Works on a workspace that `bench/student_banking77.py --full --workspace DIR` left behind: its
student is the champion. A share of the BANKING77 test rows plays the new answers, the rest judges.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from student_banking77 import banking77

from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import load_recipe
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.rows import Example
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=300, help="new answers of the teacher")
    parser.add_argument("--rows", type=int, default=8000, help="rows the head is fitted on")
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
    recipe = load_recipe("intents-default")
    recipe = replace(
        recipe,
        data=replace(recipe.data, max_drop=0.0, near_jaccard=0.0, redact=False),
        gate=replace(recipe.gate, require_gain=False),
    )
    log = [logged(i, text, label) for i, (text, label) in enumerate(news)]
    sources = Sources(log=log, seed=seed, champion=champion)
    # The first refresh finds no vectors of this encoder; later ones encode what is new.
    cold = refresh_head(recipe, Workspace(work), replace(sources, log=()))
    result = refresh_head(recipe, Workspace(work), sources)
    new = max((work / "bundles").iterdir(), key=lambda p: p.stat().st_mtime)
    before, after = right(champion, judge), right(new, judge)
    report = {
        "rows the head learned from": options.rows + options.answers,
        "seconds, first": cold.seconds,
        "seconds, later": result.seconds,
        "shipped kB": result.shipped_bytes / 1e3,
        "accuracy before": float(before.mean()),
        "accuracy after": float(after.mean()),
        "negative flips": float((before & ~after).mean()),
        "positive flips": float((~before & after).mean()),
        "gate": str(result.ruling),
    }
    print("| what | value |\n|---|---|")
    for name, value in report.items():
        print(f"| {name} | {round(value, 4) if isinstance(value, float) else value} |")
    for reason in result.verdict.reasons:
        print(f"<!-- {reason} -->")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


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
