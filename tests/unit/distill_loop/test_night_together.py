"""Several tasks on one body: one encoder file, a head for each, and no batch that mixes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulators.night_world import INTENTS, tiny_recipe, traffic, utterances
from understudy.distill_loop.distil import Lesson
from understudy.distill_loop.night import Sources
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.rows import Example
from understudy.distill_loop.together import first_students, join_lessons
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.errors import DataError

CARDS, MONEY = INTENTS[:3], INTENTS[3:]


def _rows(name: str, intents: tuple[str, ...], seed: int) -> list[Example]:
    pairs = utterances(8 * len(intents), seed, intents)
    return [Example(id=f"{name}-{i}", text=t, label=y) for i, (t, y) in enumerate(pairs)]


def test_each_row_keeps_the_columns_of_its_own_task() -> None:
    def lesson(rows: int, classes: int, missing: int = -1) -> Lesson:
        labels = np.arange(rows) % classes
        labels[missing:] = -1 if missing >= 0 else labels[missing:]
        soft = np.eye(classes, dtype=np.float32)[np.maximum(labels, 0)]
        return Lesson(
            texts=["a"] * rows,
            vectors=np.ones((rows, 4), np.float32),
            soft=soft,
            labels=labels,
            weights=np.ones(rows, np.float32),
        )

    first, second = lesson(4, 2), lesson(6, 3, missing=5)
    joined = join_lessons([first, second])

    assert joined.spans == ((0, 2), (2, 5))
    for row in range(10):
        of = first if row < 4 else second
        own = row if row < 4 else row - 4
        columns = joined.columns(row)
        assert joined.soft[row, columns].tolist() == of.soft[own].tolist()
        assert joined.labels[row] - (columns.start or 0) == of.labels[own]
    assert joined.soft.sum(1).tolist() == [1.0] * 10  # nothing outside a row's own columns


@pytest.mark.slow
def test_two_tasks_share_one_encoder_file_and_a_refresh_of_one_keeps_it(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, distil=replace(recipe.distil, epochs=2, max_steps=12))
    tasks = {"cards": _rows("c", CARDS, 1), "money": _rows("m", MONEY, 2)}
    made = first_students(recipe, Workspace(tmp_path), tasks)
    cards, money = (read_bundle(made[name]) for name in ("cards", "money"))
    assert Workspace(tmp_path / "cards").unfinished(0.0) == ""
    log = traffic(120, 5, intents=CARDS)
    refreshed = refresh_head(
        replace(recipe, task="cards"),
        Workspace(tmp_path / "cards"),
        Sources(seed=tuple(tasks["cards"]), log=log, champion=made["cards"]),
    )
    newer = read_bundle(refreshed.directory)

    for file in ("encoder.onnx", "tokenizer.json"):
        digests = {b.manifest.files[file].sha256 for b in (cards, money, newer)}
        assert len(digests) == 1
    assert (cards.manifest.task, money.manifest.task) == ("cards", "money")
    assert set(cards.manifest.labels) == set(CARDS)
    assert set(money.manifest.labels) == set(MONEY)
    for bundle, intents in ((cards, CARDS), (money, MONEY)):
        student, asked = Student.load(bundle), utterances(60, 9, intents)
        said = student.run([text for text, _ in asked]).logits.argmax(1)
        right = [student.labels[i] == y for i, (_, y) in zip(said, asked, strict=True)]
        assert np.mean(right) > 2.0 / len(intents)  # twice chance


def test_one_task_alone_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        first_students(tiny_recipe(), Workspace(tmp_path), {"cards": _rows("c", CARDS, 1)})
