"""The live watch inside a simulated day: a certificate ends when traffic has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulators.night_world import INTENTS, tiny_base, utterances
from understudy.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KNOWN, UNSEEN = INTENTS[:4], INTENTS[4:]
RECIPE = """
name: tiny
student: {{base: {base}, keep_layers: [0, 1], vocabulary: 400, max_tokens: 24}}
distil: {{epochs: 0, threads: 1}}
data: {{max_drop: 0.0}}
gate: {{require_gain: false, latency_ratio: 100}}
split: {{uncertified_unbiased: true, unbiased_train: 0.2}}
"""


def rows(count: int, seed: int, intents: tuple[str, ...], day: int = 0) -> str:
    plain = (
        {"text": text, "label": label, "day": day}
        for text, label in utterances(count, seed, intents)
    )
    return "".join(json.dumps(row) + "\n" for row in plain)


def second_day(folder: Path, afternoon: tuple[str, ...]) -> dict[str, Any]:
    """Day 1 escalates and certifies; day 2 begins as day 1 was. Returns day 2 of the report."""
    stream = rows(240, 2, KNOWN, 1) + rows(100, 3, KNOWN, 2) + rows(150, 4, afternoon, 2)
    (folder / "seed.jsonl").write_text(rows(40, 1, KNOWN))
    (folder / "stream.jsonl").write_text(stream)
    (folder / "tiny.yaml").write_text(RECIPE.format(base=tiny_base()))
    code = run([
        "simulate", "--seed", str(folder / "seed.jsonl"), "--stream", str(folder / "stream.jsonl"),
        "--out", str(folder / "out"), "--recipe", str(folder / "tiny.yaml"),
        "--max-quality-loss", "0.1", "--confidence", "0.9",
        "--audit-rate", "0.3", "--refresh-every", "0",
    ])  # fmt: skip
    assert 0 == code
    report = json.loads((folder / "out" / "report.json").read_text("utf-8"))
    day: dict[str, Any] = report["days"][1]
    return day


def test_unseen_intents_end_a_certificate_in_the_middle_of_the_day(tmp_path: Path) -> None:
    day = second_day(tmp_path, UNSEEN)

    assert day["certified"]
    assert day["withdrawn"]
    assert 0.4 < day["certified_rate"] < 0.9
    assert "certified, withdrawn on drift" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_day_like_the_day_before_keeps_its_certificate(tmp_path: Path) -> None:
    day = second_day(tmp_path, KNOWN)

    assert day["certified"]
    assert not day["withdrawn"]
    assert 1.0 == day["certified_rate"]
