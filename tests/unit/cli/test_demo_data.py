"""The demo's parts never overlap: what is taught is not asked, what is news is not known."""

from __future__ import annotations

import pytest

from understudy.cli.demo_data import load_demo_data, split_demo
from understudy.cli.rows import Row
from understudy.types.errors import DataError


def rows(labels: int, each: int) -> list[Row]:
    return [Row(id=f"{a}-{b}", text=f"t{a}-{b}", label=f"l{a}") for a in range(labels)
            for b in range(each)]  # fmt: skip


def test_teacher_seed_and_days_are_disjoint_and_use_every_row() -> None:
    data = split_demo(rows(4, 40), {"l3": 3}, days=5, rng=1, source="f")

    parts = [*data.teacher, *data.seed, *(row for day in data.days for row in day)]
    assert 160 == len(parts) == len({row.id for row in parts})


def test_a_late_intent_is_unknown_to_the_student_and_to_the_early_days() -> None:
    data = split_demo(rows(4, 40), {"l3": 3}, days=5, rng=1, source="f")

    assert "l3" in {row.label for row in data.teacher}
    assert "l3" not in {row.label for row in (*data.seed, *data.days[0], *data.days[1])}
    assert {3: ("l3",)} == data.new_labels


def test_the_same_number_gives_the_same_demo() -> None:
    first, again = (split_demo(rows(3, 30), {}, days=4, rng=7, source="f") for _ in range(2))

    assert first == again


def test_the_support_desk_makes_a_demo_of_its_promised_size() -> None:
    data = load_demo_data(None, days=5, rng=7)

    intents = {row.label for row in data.teacher}
    late = {label for day in data.new_labels.values() for label in day}
    assert len(intents) >= 30
    assert late
    assert set(data.new_labels) == {3}
    assert min(len(day) for day in data.days) >= 150


def test_too_few_rows_of_a_label_are_named() -> None:
    with pytest.raises(DataError, match="label 'l0' has 5 rows; 9 at least"):
        split_demo(rows(2, 5), {}, days=5, rng=1, source="f.jsonl")
