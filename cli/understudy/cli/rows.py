"""Rows of a seed, stream or test file: JSON lines or CSV in, frozen rows out.

Every fault names file and row and says what to change; nothing is guessed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.types.config import nearest_key
from understudy.types.errors import DataError

COLUMNS = ("text", "label", "teacher_label", "teacher_probs", "ts", "id", "day")
MAX_TEXT_BYTES = 1 << 20
_ALIASES = {"utterance", "sentence", "query", "category", "intent", "class"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file.

    Attributes:
        id: Given in the file, or its position.
        text: The input.
        label: Gold label; empty when unknown.
        teacher_label: The recorded teacher's answer; empty when there is none.
        teacher_probs: The recorded teacher's distribution; empty when there is none.
        ts: When it was asked, seconds since 1970; None when unknown.
        day: Day of the stream it belongs to, from 1; 0 when the file does not say.
    """

    id: str
    text: str
    label: str = ""
    teacher_label: str = ""
    teacher_probs: Mapping[str, float] = field(default_factory=dict)
    ts: float | None = None
    day: int = 0

    @property
    def recorded(self) -> str:
        """The teacher's recorded answer, or the gold label where none was recorded."""
        if self.teacher_probs:
            return max(self.teacher_probs, key=lambda name: self.teacher_probs[name])
        return self.teacher_label or self.label


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads a `.jsonl` or `.csv` file.

    Raises:
        DataError: If the file or one of its rows cannot be used.
    """
    text = _read_text(path)
    raw = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    rows = tuple(_row(path, where, index, fields) for index, (where, fields) in enumerate(raw))
    if not rows:
        raise DataError(f"{path}: there are no rows; at least one with a `text` is needed")
    return rows


def require_labels(path: Path, rows: tuple[Row, ...]) -> None:
    """Checks that the rows can teach a student.

    Raises:
        DataError: If a row has no label or all have the same.
    """
    for position, row in enumerate(rows, start=1):
        if not row.recorded:
            raise DataError(f"{path}: row {position} has no `label`; every seed row needs one")
    labels = {row.recorded for row in rows}
    if len(labels) < 2:
        raise DataError(
            f"{path}: all {len(rows)} rows have the label '{labels.pop()}'; at least two are needed"
        )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8; convert the file, for example with iconv"
        ) from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # Only \n ends a JSON line: splitlines would also cut at characters a text may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f'{path}: line {number} must be an object like {{"text": "..."}}')
        yield f"line {number}", value


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(MAX_TEXT_BYTES * 2)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = reader.fieldnames or ()
    if "text" not in names:
        found = next((name for name in names if name.lower() in _ALIASES), None)
        hint = f"; rename '{found}'?" if found else f".{nearest_key('text', names)}"
        raise DataError(f"{path}: the header has no column `text`{hint}")
    try:
        for number, fields in enumerate(reader, start=1):
            yield f"row {number}", {k: v for k, v in fields.items() if v not in (None, "")}
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from error


def _row(path: Path, where: str, index: int, fields: dict[str, Any]) -> Row:
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{path}: {where} has no `text`")
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise DataError(f"{path}: {where} has a `text` of more than {MAX_TEXT_BYTES} bytes")
    if "\x00" in text:
        raise DataError(f"{path}: {where} has a NUL byte in its `text`; remove it")
    return Row(
        id=str(fields.get("id", index + 1)),
        text=text,
        label=_word(path, where, fields, "label"),
        teacher_label=_word(path, where, fields, "teacher_label"),
        teacher_probs=_probabilities(path, where, fields.get("teacher_probs")),
        ts=_number(path, where, fields, "ts"),
        day=int(_number(path, where, fields, "day") or 0),
    )


def _word(path: Path, where: str, fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value).strip()
    raise DataError(f"{path}: {where} has a `{name}` that is neither text nor a whole number")


def _number(path: Path, where: str, fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {where} has a `{name}` that is no number: {value!r}") from error
    if not math.isfinite(number):
        raise DataError(f"{path}: {where} has a `{name}` that is not finite")
    return number


def _probabilities(path: Path, where: str, value: object) -> dict[str, float]:
    if value is None:
        return {}
    try:
        plain: Any = json.loads(value) if isinstance(value, str) else value
        found = {str(name): float(p) for name, p in dict(plain).items()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: {where} has `teacher_probs` that map no label to a number"
        ) from error
    total = sum(found.values())
    if not found or any(not 0.0 <= p <= 1.0 for p in found.values()) or not 0.98 <= total <= 1.02:
        raise DataError(f"{path}: {where} has `teacher_probs` that are no distribution")
    return found
