"""Recorded answers: what was said is repeated, what was not said is an error of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.replay import ReplayEngine, read_recordings
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import (
    ConfigError,
    DataError,
    DeadlineError,
    InvalidValueError,
    TeacherError,
)
from understudy.types.records import TeacherLabel


def replay() -> ReplayEngine:
    return ReplayEngine({"where is it": {"arrival": 0.9, "lost": 0.1}, "gone": {"lost": 1.0}})


async def test_each_input_gets_its_own_answer_or_its_own_error() -> None:
    requests = [
        ScoreRequest(text="where is it"),
        ScoreRequest(text="never heard"),
        ScoreRequest(text="gone", deadline_unix_s=1.0),
        ScoreRequest(text="gone", labels=("arrival", "lost")),
    ]

    first, unknown, late, chosen = await replay().score_labels(requests)

    assert isinstance(first, TeacherLabel)
    assert first.label == "arrival"
    assert first.probability == pytest.approx(0.9)
    assert isinstance(unknown, TeacherError)
    assert isinstance(late, DeadlineError)
    assert isinstance(chosen, TeacherLabel)
    assert chosen.label == "lost"


async def test_a_replay_is_a_teacher_that_cannot_generate() -> None:
    engine = replay()
    assert isinstance(engine, TeacherEngine)

    await engine.start()
    await engine.health()
    (refusal,) = await engine.generate([GenerateRequest(prompt="p")])
    await engine.stop()

    assert isinstance(refusal, InvalidValueError)
    assert ("arrival", "lost") == engine.info().labels


async def test_a_replay_of_nothing_does_not_start() -> None:
    with pytest.raises(ConfigError):
        await ReplayEngine({}).start()


async def test_recordings_are_read_from_json_lines_and_csv(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text(
        json.dumps({"text": "a", "teacher_probs": {"x": 0.7, "y": 0.3}})
        + "\n\n"
        + json.dumps({"text": "b", "teacher_label": "y"})
    )
    table = tmp_path / "rows.csv"
    table.write_text('text,teacher_label,teacher_probs\n"two\nlines",x,\nc,,"{""y"": 1.0}"\n')

    assert {"a": {"x": 0.7, "y": 0.3}, "b": {"y": 1.0}} == read_recordings(lines)
    assert {"two\nlines": {"x": 1.0}, "c": {"y": 1.0}} == read_recordings(table)
    engine = make_engine(TeacherSpec(engine=Engine.REPLAY, recordings=str(lines)))
    assert engine.info().id == "replay:rows"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "teacher_label": "x"}\nnot json', "row 2 is not a JSON object"),
        ('{"text": "a"}', "row 1 has no 'teacher_label'"),
        ('{"teacher_label": "x"}', "row 1 has no 'text'"),
        ('{"text": "a", "teacher_probs": "{"}', "row 1: 'teacher_probs' is not JSON"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)

    with pytest.raises(DataError, match=message):
        read_recordings(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read"):
        read_recordings(tmp_path / "none.jsonl")
