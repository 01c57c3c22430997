"""What the console shows of the past: bounded, redacted, and never the reason for a broken page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from understudy.cloud.console.recent import (
    MAX_ESCALATIONS,
    MAX_NIGHTS,
    MAX_TEXT_CHARS,
    informative,
    read_nights,
    redacted,
)
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LabelScore, LoggedRow, TeacherLabel


def row(
    name: str, *, confidence: float = 0.5, teacher: str = "", kind: str = "escalation"
) -> LoggedRow:
    record = EscalationRecord(
        event_id=name, task="desk", bundle="b", text=f"text of {name}",
        top=(LabelScore("yes", confidence),), confidence=confidence, threshold=0.9,
        kind=RecordKind(kind), coin=False, audit_rate=0.1, propensity=1.0, created_unix_s=1.0,
    )  # fmt: skip
    label = TeacherLabel("t", "h", (teacher,), (0.0,)) if teacher else None
    return LoggedRow(1, record, label, 1.0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("write to ann.lee@mail.example.org", "write to [email]", id="mail"),
        pytest.param("see https://a.example/x?y=1 now", "see [link] now", id="link"),
        pytest.param("card 4111 1111 1111 1111 lost", "card [number] lost", id="card"),
        pytest.param("DE89 3704 0044 0532 0130 00", "[account]", id="account"),
        pytest.param("2 days late", "2 days late", id="small numbers stay"),
        pytest.param("我的卡 13800138000 丢了", "我的卡 [number] 丢了", id="Chinese"),
    ],
)
def test_what_could_name_a_person_is_not_shown(text: str, shown: str) -> None:
    """A console is looked at over shoulders."""
    assert shown == redacted(text)


def test_a_long_text_is_cut_and_a_huge_one_costs_nothing() -> None:
    """A megabyte of digits is somebody's test of us."""
    assert len(redacted("a" * 1_000_000)) == MAX_TEXT_CHARS
    assert redacted("1" * 1_000_000) == "[number]"


def test_a_wrong_answer_that_was_kept_comes_first() -> None:
    """It is what the contract counts."""
    rows = [
        row("sure", confidence=0.9, teacher="yes"),
        row("unsure", confidence=0.1, teacher="yes"),
        row("wrong", confidence=0.6, teacher="no"),
        row("kept-wrong", confidence=0.95, teacher="no", kind="audit"),
        row("unlabelled", confidence=0.3),
    ]

    shown = [e["event_id"] for e in informative(rows)]

    assert shown == ["kept-wrong", "wrong", "unsure", "unlabelled", "sure"]


def test_the_list_of_escalations_is_bounded() -> None:
    """The page is for people."""
    assert len(informative(row(f"e{i}") for i in range(100))) == MAX_ESCALATIONS


def write(folder: Path, name: str, **fields: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps(fields))


def test_a_night_shows_its_ruling_and_what_stood_in_its_way(tmp_path: Path) -> None:
    """Refused is an answer, and it has a reason."""
    checks = [
        {"name": "size", "outcome": "pass", "says": "small"},
        {"name": "flips", "outcome": "fail", "says": "4 % of right answers break"},
    ]
    write(tmp_path, "2027-01-14", ruling="refuse", checks=checks, seconds={"a": 1.26, "b": 2.0})

    (night,) = read_nights(tmp_path)

    assert (night["date"], night["verdict"]) == ("2027-01-14", "refuse")
    assert night["reason"] == "4 % of right answers break"
    assert night["seconds"] == 3.3


def test_a_report_is_linked_only_when_it_is_there(tmp_path: Path) -> None:
    """A dead link at three in the morning is one insult too many."""
    write(tmp_path, "n1", ruling="promote", certified=True, keep_rate=0.8)
    reports = tmp_path / "reports"
    reports.mkdir()
    assert read_nights(tmp_path, reports)[0]["report"] == ""

    (reports / "n1.html").write_text("<h1>n1</h1>")

    assert read_nights(tmp_path, reports)[0]["report"] == "n1.html"
    assert "keeps 80%" in read_nights(tmp_path, reports)[0]["reason"]


def test_a_broken_file_hides_itself_and_nothing_else(tmp_path: Path) -> None:
    """A night that is being written must not take the page down."""
    (tmp_path / "half.json").write_text('{"ruling": ')
    (tmp_path / "list.json").write_text("[]")
    write(tmp_path, "odd", ruling="promote", seconds={"a": math.nan, "b": "x"}, checks=["?"])
    write(tmp_path, "fine", ruling="promote")

    nights = {n["date"]: n for n in read_nights(tmp_path)}

    assert set(nights) == {"odd", "fine"}
    assert nights["odd"]["seconds"] == 0.0


def test_only_the_last_nights_are_shown(tmp_path: Path) -> None:
    """A year of nights is a report, not a console."""
    for day in range(MAX_NIGHTS + 5):
        write(tmp_path, f"n{day}", ruling="promote")

    assert len(read_nights(tmp_path)) == MAX_NIGHTS


def test_no_folder_means_no_nights(tmp_path: Path) -> None:
    """The first day."""
    assert read_nights(tmp_path / "nowhere") == []
