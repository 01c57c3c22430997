"""`understudy policy fit`: the promised fields, on a user's own file, or one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.cli.main import run

FIELDS = {"threshold", "keep_rate", "risk_upper_bound", "certified", "rows", "rows_missing"}


def scores(tmp_path: Path, rows: list[tuple[float, int]]) -> Path:
    path = tmp_path / "scores.csv"
    lines = [f"{confidence},{agree}" for confidence, agree in rows]
    path.write_text("\n".join(["confidence,agree", *lines]) + "\n")
    return path


def fit(path: Path, capsys: pytest.CaptureFixture[str], loss: str) -> dict[str, object]:
    code = run(["policy", "fit", "--scores", str(path), "--max-quality-loss", loss, "--json"])

    assert 0 == code
    printed: dict[str, object] = json.loads(capsys.readouterr().out)
    return printed


def test_recalibration_on_ones_own_file_prints_every_promised_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(i / 1000, 1 if i >= 100 else 0) for i in range(1000)]

    printed = fit(scores(tmp_path, rows), capsys, "0.05")

    assert set(printed) == FIELDS
    assert printed["certified"] is True
    assert 1000 == printed["rows"]
    assert isinstance(printed["keep_rate"], float)
    assert 0.85 <= printed["keep_rate"] < 1.0


def test_too_few_rows_are_not_certified_and_say_how_many_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = fit(scores(tmp_path, [(0.9, 1)] * 50), capsys, "0.02")

    assert (None, False) == (printed["threshold"], printed["certified"])
    # ln 0.05 / ln 0.98 rounded up is 149 clean rows.
    assert 99 == printed["rows_missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "there are no rows", id="empty"),
        pytest.param("confidnce,agree\n1,1\n", "Did you mean 'confidnce'", id="column"),
        pytest.param("confidence,agree\n0.5,maybe\n", "row 1 needs numbers", id="word"),
        pytest.param("confidence,agree\n0.5,1\n7,1\n", "row 2 has a confidence", id="range"),
        pytest.param("confidence,agree\n0.5,0.5\n", "neither 0 nor 1", id="agree"),
    ],
)
def test_a_bad_score_file_gets_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)

    code = run(["policy", "fit", "--scores", str(path)])

    said = capsys.readouterr().err
    assert 2 == code
    assert message in said
    assert str(path) in said
    assert 1 == said.count("\n")
