"""What data files may hold, and the one sentence a person gets when they hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.cli.rows import MAX_TEXT_BYTES, Row, read_rows, require_labels
from understudy.types.errors import DataError


def write(tmp_path: Path, name: str, data: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_json_lines_and_csv_with_the_same_rows_read_the_same(tmp_path: Path) -> None:
    lines = '{"text": "a\\nb", "label": "x", "teacher_label": "y", "ts": 5}\n\n{"text": "c"}\n'
    table = 'text,label,teacher_label,ts\r\n"a\nb",x,y,5\r\nc,,,\r\n'

    from_json = read_rows(write(tmp_path, "r.jsonl", lines))
    from_csv = read_rows(write(tmp_path, "r.csv", table))

    assert (
        (
            Row(id="1", text="a\nb", label="x", teacher_label="y", ts=5.0),
            Row(id="2", text="c"),
        )
        == from_json
        == from_csv
    )


def test_the_recorded_answer_prefers_the_distribution_then_the_label_then_gold() -> None:
    probs = Row(id="1", text="t", label="g", teacher_label="l", teacher_probs={"a": 0.3, "b": 0.7})

    assert "b" == probs.recorded
    assert "l" == Row(id="1", text="t", label="g", teacher_label="l").recorded
    assert "g" == Row(id="1", text="t", label="g").recorded


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("r.jsonl", "", "there are no rows", id="empty"),
        pytest.param("r.jsonl", "{", "line 1 is not JSON", id="broken"),
        pytest.param("r.jsonl", "[1]", "line 1 must be an object", id="no object"),
        pytest.param("r.jsonl", '{"label": "x"}', "line 1 has no `text`", id="no text"),
        pytest.param("r.jsonl", '{"text": "  "}', "line 1 has no `text`", id="blank text"),
        pytest.param("r.jsonl", '{"text": 5}', "line 1 has no `text`", id="text is a number"),
        pytest.param("r.jsonl", b"\xff\xfe", "line 1 is not UTF-8", id="not utf-8"),
        pytest.param("r.jsonl", '{"text": "a\\u0000b"}', "NUL byte", id="nul"),
        pytest.param(
            "r.jsonl", json.dumps({"text": "a" * (MAX_TEXT_BYTES + 1)}), "more than", id="1 MB"
        ),
        pytest.param("r.jsonl", '{"text": "a", "ts": "noon"}', "`ts` that is no number", id="ts"),
        pytest.param("r.jsonl", '{"text": "a", "ts": 1e999}', "not finite", id="infinite ts"),
        pytest.param("r.jsonl", '{"text": "a", "label": [1]}', "neither text nor", id="label"),
        pytest.param(
            "r.jsonl", '{"text": "a", "teacher_probs": {"x": 0.2}}', "no distribution", id="probs"
        ),
        pytest.param("r.csv", "query,label\na,b\n", "rename 'query'", id="alias"),
        pytest.param("r.csv", "foo,label\na,b\n", "no column `text`", id="no text column"),
    ],
)
def test_a_bad_file_gets_one_sentence_that_names_file_and_place(
    tmp_path: Path, name: str, data: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, data)

    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_rows(tmp_path / "nowhere.jsonl")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path)


def test_a_seed_needs_two_labels_and_one_on_every_row(tmp_path: Path) -> None:
    path = tmp_path / "seed.jsonl"

    with pytest.raises(DataError, match="all 2 rows have the label 'x'"):
        require_labels(path, (Row(id="1", text="a", label="x"), Row(id="2", text="b", label="x")))
    with pytest.raises(DataError, match="row 2 has no `label`"):
        require_labels(path, (Row(id="1", text="a", label="x"), Row(id="2", text="b")))
