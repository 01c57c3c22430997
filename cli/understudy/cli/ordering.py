"""In which order a stream is played: by time where the rows tell it, else as the file has them.

Data sets often lie on disk sorted by label. Played like that, each class arrives as a flood of its
own, and a budget is gone before the later ones come; traffic is not like that.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from understudy.cli.rows import Row

_ROWS_TO_JUDGE = 50
_FEW_CHANGES = 0.25
"""Of the changes of label that a random order has; a product's busy hours leave most of them."""


class Order(StrEnum):
    """What the order of a stream came from."""

    TIME = "by `ts`"
    FILE = "as in the file"
    SHUFFLED = "shuffled"


def order_of(rows: Sequence[Row], *, shuffle: bool) -> Order:
    """Time where every row tells it, unless a person wants another."""
    if shuffle:
        return Order.SHUFFLED
    return Order.TIME if all(row.ts is not None for row in rows) else Order.FILE


def ordered(rows: Sequence[Row], order: Order, rng: int) -> tuple[Row, ...]:
    """The rows in the order they are played; rows of one second stay as the file has them."""
    match order:
        case Order.SHUFFLED:
            # An order, not a secret.
            return tuple(random.Random(rng).sample(rows, len(rows)))  # noqa: S311
        case Order.TIME:
            return tuple(sorted(rows, key=lambda row: row.ts or 0.0))
        case Order.FILE:
            return tuple(rows)


def is_sorted_by_label(rows: Sequence[Row]) -> bool:
    """True if the labels change far more seldom than in a random order of the same rows."""
    labels = [row.recorded for row in rows if row.recorded]
    if len(labels) < _ROWS_TO_JUDGE:
        return False
    changes = sum(a != b for a, b in pairwise(labels))
    alike = sum(count * (count - 1) for count in Counter(labels).values())
    by_chance = (len(labels) - 1) - alike / len(labels)
    return changes < _FEW_CHANGES * by_chance


def advice(stream: Path, rows: Sequence[Row], order: Order) -> str:
    """One line for a person whose file is no traffic yet; empty when there is nothing to say."""
    if order is not Order.FILE or not is_sorted_by_label(rows):
        return ""
    return (
        f"{stream.name} is sorted by label, which traffic is not, and it is played in the order of"
        " the file: --shuffle plays it in a random order"
    )
