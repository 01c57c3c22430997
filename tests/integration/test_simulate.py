"""`understudy simulate` as a user runs it: files in, a report with every promised field out."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from understudy.cli.main import run
from understudy.edge.bundle import read_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATA = Path(__file__).parents[2] / "examples" / "support-desk" / "utterances.jsonl"
LATE = "warranty_claim"
QUICK = """
name: quick
student: {use: static}
distil: {epochs: 1, embedding_rate: 0.001, max_steps: 20}
split: {train: 0.8, calibration: 0.1, gate: 0.1, unbiased_calibration: 0.3}
gate: {require_gain: false, margin: 0.2, max_negative_flips: 0.5, latency_ratio: 50}
data: {max_drop: 0.0}
"""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Ran:
    """A simulation that has ended."""

    out: Path
    report: dict[str, Any]
    requests: int


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Rows of ten intents, mixed; one of them is the late one."""
    found = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    intents = sorted({row["label"] for row in found} - {LATE})[:9]
    kept = [row for row in found if row["label"] in {LATE, *intents}]
    random.Random(4).shuffle(kept)  # noqa: S311 - an order, not a secret
    return kept


@pytest.fixture(scope="module")
def streamed(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three examples an intent, the late one unknown, a fifth of the calls; nothing else said."""
    folder = tmp_path_factory.mktemp("stream")
    counts: Counter[str] = Counter()
    seed: Rows = []
    stream: Rows = []
    for row in rows:
        counts[row["label"]] += 1
        known = row["label"] != LATE and counts[row["label"]] <= 3
        (seed if known else stream).append(row)
    stream = [{**row, "id": f"r{n}"} for n, row in enumerate(stream[:280])]
    for row in stream[::10]:
        row["teacher_label"] = row.pop("label")
    return play(folder, seed, stream, "--budget", "0.2", "--days", "2")


def play(folder: Path, seed: Rows, stream: Rows, *words: str) -> Ran:
    write(folder / "seed.jsonl", seed)
    write(folder / "stream.jsonl", stream)
    code = run([
        "simulate", "--seed", str(folder / "seed.jsonl"), "--stream", str(folder / "stream.jsonl"),
        "--out", str(folder / "out"), *words,
    ])  # fmt: skip
    assert 0 == code
    report = json.loads((folder / "out" / "report.json").read_text("utf-8"))
    return Ran(folder / "out", report, len(stream))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_budget_holds_over_the_stream_audits_counted(streamed: Ran) -> None:
    totals = streamed.report["totals"]

    assert streamed.requests == totals["requests"]
    assert totals["teacher_call_rate"] <= math.floor(0.2 * streamed.requests) / streamed.requests
    assert totals["teacher_call_rate"] > 0.17


def test_calls_are_spent_early_because_what_they_teach_stays(streamed: Ran) -> None:
    first, second = (day["teacher_call_rate"] for day in streamed.report["days"])

    assert first > 1.3 * second


def test_nothing_is_called_certified_that_no_audit_proved(streamed: Ran) -> None:
    assert [False, False] == [day["certified"] for day in streamed.report["days"]]
    assert {None} == {day["threshold"] for day in streamed.report["days"]}
    assert 0.0 < streamed.report["totals"]["joint_risk"] < 0.5


def test_the_student_learns_by_day_and_knows_the_late_intent_in_the_end(streamed: Ran) -> None:
    days, nights = streamed.report["days"], streamed.report["nights"]

    assert int(streamed.report["facts"]["refreshes by day"]) >= 1
    assert days[1]["bundle"] == nights[0]["bundle"] != days[0]["bundle"]
    last = read_bundle(streamed.out / "nights" / "bundles" / nights[1]["bundle"])
    assert LATE in last.manifest.labels


def test_the_cascade_beats_its_student(streamed: Ran) -> None:
    totals = streamed.report["totals"]

    assert totals["system_accuracy"] > totals["student_accuracy"]
    assert totals["system_accuracy"] > 0.7


@pytest.fixture(scope="module")
def from_csv(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """CSV with a teacher's distribution, a test file, a recipe of one's own, no budget."""
    folder = tmp_path_factory.mktemp("csv")
    (folder / "quick.yaml").write_text(QUICK)
    table(folder / "seed.csv", rows[:60], ("text", "label"))
    table(folder / "test.csv", rows[60:90], ("text", "label"))
    stream = [
        {**row, "teacher_probs": json.dumps({row["label"]: 0.9, "nothing": 0.1}), "ts": n}
        for n, row in enumerate(rows[90:190])
    ]
    table(folder / "stream.csv", stream, ("id", "ts", "text", "teacher_probs"))
    words = {"seed": "seed.csv", "stream": "stream.csv", "test": "test.csv", "recipe": "quick.yaml"}
    code = run([
        "simulate", *(w for k, v in words.items() for w in (f"--{k}", str(folder / v))),
        "--out", str(folder / "out"), "--days", "2", "--rng", "3", "--audit-rate", "0.5",
        "--max-quality-loss", "0.3", "--confidence", "0.9",
    ])  # fmt: skip
    assert 0 == code
    return Ran(folder / "out", json.loads((folder / "out" / "report.json").read_text()), 100)


def table(path: Path, rows: Rows, columns: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_csv_with_distributions_plays_like_json_lines(from_csv: Ran) -> None:
    assert 100 == from_csv.report["totals"]["requests"]
    assert [50, 50] == [day["requests"] for day in from_csv.report["days"]]
    assert 1.0 == from_csv.report["days"][0]["escalation_rate"]
    assert 0.9 == from_csv.report["contract"]["confidence"]


def test_what_no_gold_label_tells_is_none_and_held_out_rows_are_measured(from_csv: Ran) -> None:
    day = from_csv.report["days"][1]

    assert day["system_accuracy"] is None
    assert day["agreement"] is not None
    assert 0.0 < day["test_accuracy"] <= 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--recipe", "nope"], "there is no recipe 'nope'", id="recipe"),
        pytest.param(["--teacher", "oracle"], "--teacher must be", id="teacher"),
        pytest.param(["--teacher", "gateway:127.0.0.1:9"], "nobody answers", id="gateway"),
        pytest.param(["--days", "1000"], "choose fewer --days", id="days"),
        pytest.param(["--test", "/nowhere.csv"], "there is no such file", id="test-file"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_leaves_no_folder(
    words: list[str],
    message: str,
    rows: Rows,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "rows.jsonl", rows[:40])

    code = run([
        "simulate", "--seed", str(tmp_path / "rows.jsonl"),
        "--stream", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), *words,
    ])  # fmt: skip

    assert 2 == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
