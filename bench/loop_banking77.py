"""The whole loop on BANKING77: gold labels as teacher, or GPT-4's recorded answers under a budget.

Writes the rows that `understudy simulate` reads, runs it, and prints its days and totals as tables.

    python bench/loop_banking77.py gold --full
    python bench/loop_banking77.py gpt4 --full
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("UNDERSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))
Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    rng = random.Random(options.rng)
    folder = options.work
    folder.mkdir(parents=True, exist_ok=True)
    words = (
        _gold(folder, rng, options) if options.teacher == "gold" else _gpt4(folder, rng, options)
    )
    out = folder / f"{options.teacher}-out"
    command = [sys.executable, "-m", "understudy.cli", "simulate", "--out", str(out), *words]
    print("$ understudy", " ".join(command[3:]), flush=True)
    subprocess.run(command, check=True)
    report = json.loads((out / "report.json").read_text())
    print(table(report["days"]))
    print(json.dumps(report["totals"], indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


def table(days: Rows) -> str:
    """The days as a markdown table."""
    names = ("day", "requests", "teacher_call_rate", "system_accuracy", "student_accuracy",
             "teacher_accuracy", "joint_risk", "certified", "threshold", "edge_p50_ms")  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for day in days:
        cells = [f"{v:.4g}" if isinstance(v := day[n], float) else str(v) for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gold(folder: Path, rng: random.Random, options: argparse.Namespace) -> list[str]:
    train = [_row(r["text"], r["category"]) for r in _csv("banking77/train.csv")]
    test = [_row(r["text"], r["category"]) for r in _csv("banking77/test.csv")]
    rng.shuffle(train)
    taken: dict[str, int] = {}
    seed: Rows = []
    stream: Rows = []
    for row in train:
        taken[row["label"]] = taken.get(row["label"], 0) + 1
        (seed if taken[row["label"]] <= 10 else stream).append(row)
    rng.shuffle(stream)  # the seed was taken from the front, where rare intents are now missing
    words = _files(folder, "gold", seed, stream if options.full else stream[:2000])
    _write(folder / "gold-test.jsonl", test)
    return [*words, "--test", str(folder / "gold-test.jsonl"), "--audit-rate", "0.1"]


def _gpt4(folder: Path, rng: random.Random, options: argparse.Namespace) -> list[str]:
    seed = [_row(r["text"], r["label_name"]) for r in _csv("banking77-gpt4/seed.csv")]
    names = {r["label"]: r["label_name"] for r in _csv("banking77-gpt4/seed.csv")}
    stream = [
        {**_row(r["text"], names[r["label"]]), "teacher_label": names[r["gpt-label"]]}
        for r in _csv("banking77-gpt4/stream.csv")
    ]
    rng.shuffle(stream)
    words = _files(folder, "gpt4", seed, stream if options.full else stream[:1000])
    return [*words, "--budget", str(options.budget)]


def _files(folder: Path, name: str, seed: Rows, stream: Rows) -> list[str]:
    _write(folder / f"{name}-seed.jsonl", seed)
    _write(folder / f"{name}-stream.jsonl", stream)
    return ["--seed", str(folder / f"{name}-seed.jsonl"),
            "--stream", str(folder / f"{name}-stream.jsonl")]  # fmt: skip


def _row(text: str, label: str) -> dict[str, Any]:
    return {"text": text, "label": label}


def _csv(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", nargs="?", choices=("gold", "gpt4"), default="gpt4")
    parser.add_argument("--full", action="store_true", help="the whole stream")
    parser.add_argument("--budget", type=float, default=0.2, help="share of calls, for gpt4")
    parser.add_argument("--rng", type=int, default=1, help="which order of the stream")
    parser.add_argument("--work", type=Path, default=Path("/tmp/understudy-bench"))
    parser.add_argument("--out", type=Path, help="write the report here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
