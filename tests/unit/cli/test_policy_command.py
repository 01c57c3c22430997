"""`understudy policy`: the promised fields, on a user's own data, or one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulators.cloud_gateway import LABELS, TASK, label, record
from understudy.cli.main import run
from understudy.cloud.log import NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.types.decision import RecordKind

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


def test_a_column_of_slices_certifies_each_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.csv"
    lines = [f"0.9,{int(n % 4 > 0 or n % 2)},{'legal' if n % 2 else ''}" for n in range(800)]
    path.write_text("\n".join(["confidence,agree,slice", *lines]) + "\n")

    printed = fit(path, capsys, "0.3")

    assert [{"name": "legal", "threshold": 0.9, "rows": 400, "inherited": False}] == printed[
        "slices"
    ]
    assert 0 == run(["policy", "fit", "--scores", str(path), "--max-quality-loss", "0.3"])
    assert "legal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param([], ["149 audited rows without error", "30 days", "--disagreement"], id="new"),
        pytest.param(
            ["--disagreement", "0.1"], ["At least 8 % of requests", "90.2 %"], id="known-student"
        ),
        pytest.param(["--audit-rate", "1.0"], ["100 % audits", "14 hours"], id="hours"),
    ],
)
def test_a_plan_says_in_words_what_a_contract_needs(
    capsys: pytest.CaptureFixture[str], options: list[str], told: list[str]
) -> None:
    assert 0 == run(["policy", "plan", "--requests-per-day", "1000", *options])
    said = capsys.readouterr().out

    assert [] == [words for words in told if words not in said]


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """A cloud with a log of two students: the old one errs, the new one hardly."""
    config = tmp_path / "cloud.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\nteacher: {{engine: replay}}\n"
        f"tasks: {{{TASK}: {{labels: [{', '.join(LABELS)}], "
        "contract: {max_quality_loss: 0.04}}}\n"
    )
    (tmp_path / "state").mkdir()
    log = SqliteLog(tmp_path / "state" / "log.db")
    audit = {"kind": RecordKind.AUDIT, "coin": True, "audit_rate": 0.5, "propensity": 0.5}
    for n in range(400):
        old, wrong = n < 200, n % 4 == 0 if n < 200 else n % 100 == 0
        made = record(
            node="n",
            bundle="a" * 64 if old else "b" * 64,
            text=f"text {n}",
            confidence=0.9,
            **audit,
        )
        log.append([NewRow(made, label(LABELS[1] if wrong else LABELS[0]))])
    log.close()
    return config


def what_if(cloud: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert 0 == run(["policy", "what-if", "-c", str(cloud), "--json", *options])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_what_if_judges_the_newest_student_by_the_configured_contract(
    cloud: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What 0.9 means changes from student to student: rows of two of them make no sense together.
    newest = what_if(cloud, capsys)
    older = what_if(cloud, capsys, "--bundle", "aaa")

    assert ("b" * 64, 200, 200) == (newest["bundle"], newest["rows"], newest["other_rows"])
    assert 0.01 == newest["risk_snips"]["value"]
    assert (0.04, True) == (
        newest["certificate"]["contract"]["max_quality_loss"],
        newest["certificate"]["certified"],
    )
    assert (0.0, False) == (older["risk_snips"]["value"], older["certificate"]["certified"])
    assert (
        0.25
        == what_if(cloud, capsys, "--bundle", "aaa", "--threshold", "0.5")["risk_snips"]["value"]
    )


def test_what_if_tells_people_shares_with_their_intervals(
    cloud: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["policy", "what-if", "-c", str(cloud)])
    said = capsys.readouterr().out

    assert "bbbbbbbbbbbb, 200 rows" in said
    assert "1 % (" in said
    assert "certified: 100 % is kept" in said
    assert "{" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--bundle", "c"], "no student's id begins with c", id="unknown"),
        pytest.param(["--bundle", ""], "is empty", id="empty-log"),
    ],
)
def test_what_if_without_rows_says_so_in_one_sentence(
    cloud: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    if "empty" in message:
        (cloud.parent / "state" / "log.db").unlink()

    code = run(["policy", "what-if", "-c", str(cloud), *options])

    said = capsys.readouterr().err
    assert (2, 1) == (code, said.count("\n"))
    assert message in said
