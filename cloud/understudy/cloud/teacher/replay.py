"""Recorded answers: for benchmarks, and for a teacher too dear to be asked twice."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.distribution import expired, prompt_hash, ranked_label
from understudy.types.errors import (
    ConfigError,
    DataError,
    InvalidValueError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

# A recording that names one label only: what is left for all others together.
_REST = 1e-6
_REMEMBERED = 10_000


class ReplayEngine:
    """A `TeacherEngine` that repeats what another teacher said once.

    Args:
        answers: Probabilities by label, by text.
        name: What the answers came from; goes into every label.
    """

    def __init__(self, answers: Mapping[str, Mapping[str, float]], *, name: str = "replay") -> None:
        self._answers = {text: dict(probabilities) for text, probabilities in answers.items()}
        self._labels = tuple(sorted({label for row in self._answers.values() for label in row}))
        self._id = f"replay:{name}"
        self._hash = prompt_hash(self._id, self._labels)
        # The same few thousand texts are asked for again and again, and always answered the same.
        self._ranked = functools.lru_cache(maxsize=_REMEMBERED)(self._rank)

    def info(self) -> TeacherInfo:
        """Labels are all that were ever recorded."""
        return TeacherInfo(id=self._id, engine="replay", labels=self._labels)

    async def start(self) -> None:
        """Nothing to load.

        Raises:
            ConfigError: If there are no recordings.
        """
        if not self._answers:
            raise ConfigError("teacher.recordings: there is no recorded answer in it")

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """The recorded distribution; a text without recording gets a `TeacherError`."""
        return [self._label(request) for request in requests]

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """Recordings hold labels only."""
        return [InvalidValueError("recorded answers cannot be continued")] * len(requests)

    async def health(self) -> None:
        """Recordings are always well."""

    async def stop(self, drain_s: float = 0.0) -> None:
        """Nothing to free."""
        del drain_s

    def _label(self, request: ScoreRequest) -> TeacherLabel | UnderstudyError:
        late = expired(request)
        if late is not None:
            return late
        return self._ranked(request.text, request.labels)

    def _rank(self, text: str, labels: tuple[str, ...]) -> TeacherLabel | UnderstudyError:
        recorded = self._answers.get(text)
        if recorded is None:
            return TeacherError("no answer was recorded for this text")
        wanted = labels or tuple(recorded)
        scores = np.array([math.log(max(recorded.get(label, 0.0), _REST)) for label in wanted])
        mass = sum(recorded.get(label, 0.0) for label in wanted)
        return ranked_label(
            wanted, scores, teacher=self._id, prompt_hash=self._hash, label_mass=mass
        )


def read_recordings(path: Path) -> dict[str, dict[str, float]]:
    """Reads rows with `text` and `teacher_probs` or `teacher_label`, JSON lines or CSV.

    Raises:
        ConfigError: If the file cannot be read.
        DataError: If a row has no text or no answer; names the row.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"teacher.recordings: {path} cannot be read: {error}") from error
    answers: dict[str, dict[str, float]] = {}
    for number, row in enumerate(_rows(path, text), start=1):
        answers[_field(row, "text", path, number)] = _answer(row, path, number)
    return answers


def _rows(path: Path, text: str) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines(keepends=True))]
    rows: list[dict[str, object]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}: row {number} is not a JSON object") from error
    return rows


def _field(row: Mapping[str, object], name: str, path: Path, number: int) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{path}: row {number} has no '{name}'")
    return value


def _answer(row: Mapping[str, object], path: Path, number: int) -> dict[str, float]:
    probabilities = row.get("teacher_probs")
    if isinstance(probabilities, str) and probabilities:
        try:
            probabilities = json.loads(probabilities)
        except ValueError as error:
            raise DataError(f"{path}: row {number}: 'teacher_probs' is not JSON") from error
    if isinstance(probabilities, Mapping) and probabilities:
        return {str(label): float(p) for label, p in probabilities.items()}
    return {_field(row, "teacher_label", path, number): 1.0}
