"""The demo's traffic: who teaches, what the student starts from, what each day brings.

Three disjoint parts of one labelled file. The teacher is fitted on rows of every intent; the
student starts from a few rows of the intents known on day 1; the rest is traffic. Intents that
begin later make up a growing share of the days from then on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import yaml

from understudy.cli.rows import Row, read_rows, require_labels
from understudy.types.errors import DataError

TEACHER_ROWS = 24
SEED_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoData:
    """What a demo is played with.

    Attributes:
        teacher: Labelled rows the teacher is fitted on; they know every intent.
        seed: Labelled rows the student starts from.
        days: Traffic by day, the first day first.
        new_labels: Labels that appear for the first time, by day from 1.
    """

    teacher: tuple[Row, ...]
    seed: tuple[Row, ...]
    days: tuple[tuple[Row, ...], ...]
    new_labels: Mapping[int, tuple[str, ...]]

    @property
    def history(self) -> tuple[str, ...]:
        """Old messages without labels, of intents the student knows: they teach its encoder."""
        known = {row.label for row in self.seed}
        return tuple(row.text for row in self.teacher if row.label in known)


def support_desk() -> Path:
    """The folder of the data set that ships with the demo."""
    packaged = Path(str(files("understudy.cli") / "data" / "support-desk"))
    in_clone = Path(__file__).resolve().parents[3] / "examples" / "support-desk"
    return packaged if packaged.is_dir() else in_clone


def load_demo_data(path: Path | None, *, days: int, rng: int) -> DemoData:
    """Splits the support desk, or a user's own labelled file, into a demo.

    Args:
        path: A `.jsonl` or `.csv` file with `text` and `label`; None for the support desk.
        days: How many days of traffic, at least 2.
        rng: Seed of every random choice.

    Raises:
        DataError: If the file cannot be used or has too few rows of a label.
    """
    if path is not None:
        rows = read_rows(path)
        require_labels(path, rows)
        return split_demo(rows, {}, days=days, rng=rng, source=str(path))
    folder = support_desk()
    source = folder / "utterances.jsonl"
    intents = yaml.safe_load((folder / "intents.yaml").read_text("utf-8"))
    from_day = {str(item["label"]): int(item["from_day"]) for item in intents}
    return split_demo(read_rows(source), from_day, days=days, rng=rng, source=str(source))


def split_demo(
    rows: Sequence[Row], from_day: Mapping[str, int], *, days: int, rng: int, source: str
) -> DemoData:
    """Splits rows by label; `from_day` names labels that begin later than day 1."""
    chance = random.Random(rng)  # noqa: S311 - shuffles, keeps no secret
    teacher: list[Row] = []
    seed: list[Row] = []
    traffic: list[list[Row]] = [[] for _ in range(days)]
    for label, group in sorted(_by_label(rows).items()):
        if len(group) < 4 + days:
            raise DataError(f"{source}: label '{label}' has {len(group)} rows; {4 + days} at least")
        chance.shuffle(group)
        begins = min(from_day.get(label, 1), days)
        taught = min(TEACHER_ROWS, len(group) // 3)
        known = min(SEED_ROWS, len(group) // 8 + 1) if begins == 1 else 0
        teacher += group[:taught]
        seed += group[taught : taught + known]
        parts = _spread(group[taught + known :], begins, days)
        for number, part in enumerate(parts, start=begins):
            traffic[number - 1] += part
    for day in traffic:
        chance.shuffle(day)
    return DemoData(
        teacher=tuple(teacher),
        seed=tuple(seed),
        days=tuple(tuple(day) for day in traffic),
        new_labels=_first_seen(traffic, {row.label for row in seed}),
    )


def _spread(rows: Sequence[Row], begins: int, days: int) -> list[Sequence[Row]]:
    """Cuts a label's rows into its days: evenly from day 1 on, growing where it begins later."""
    weights = [1 if begins == 1 else k * (k + 1) // 2 for k in range(1, days - begins + 2)]
    bounds = [round(len(rows) * sum(weights[:k]) / sum(weights)) for k in range(len(weights) + 1)]
    return [rows[a:b] for a, b in pairwise(bounds)]


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.recorded, []).append(row)
    return groups


def _first_seen(traffic: Sequence[Sequence[Row]], known: set[str]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    seen = set(known)
    for day, rows in enumerate(traffic, start=1):
        new = {row.label for row in rows} - seen
        if new:
            found[day] = tuple(sorted(new))
        seen |= new
    return found
