"""Which rows learn, calibrate and judge: a hash of the row's id, the same one every night.

Law: a row lands in the same fold for ever, so what once trained never certifies. Seed rows always
train: they are chosen by a person and say nothing about the traffic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from understudy.distill_loop.recipe import SplitRecipe
from understudy.distill_loop.rows import Example, Origin, text_key


class Fold(StrEnum):
    """What a row is used for."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    GATE = "gate"


@dataclass(frozen=True, slots=True)
class Folds:
    """Rows by use.

    Attributes:
        train: Learn.
        calibration: Fit the calibration.
        gate: Compare champion and challenger; those that are unbiased certify.
    """

    train: tuple[Example, ...]
    calibration: tuple[Example, ...]
    gate: tuple[Example, ...]

    @property
    def certificate(self) -> tuple[Example, ...]:
        """The rows that may certify: of today's traffic, unbiased, never trained or calibrated on.

        After a drift alarm that is what was logged since: older rows are a sample of other traffic.
        """
        return tuple(row for row in self.gate if row.unbiased and row.current)


_ALWAYS_TRAIN = {Origin.SEED, Origin.FILE, Origin.SYNTHETIC, Origin.UNLABELLED}


def fold_of(row: Example, recipe: SplitRecipe) -> Fold:
    """The fold of one row."""
    if row.origin in _ALWAYS_TRAIN:
        return Fold.TRAIN
    train, calibration = (
        (recipe.unbiased_train, recipe.unbiased_calibration)
        if row.unbiased
        else (recipe.train, recipe.calibration)
    )
    place = _place(row.id, recipe.salt)
    if place < train:
        return Fold.TRAIN
    return Fold.CALIBRATION if place < train + calibration else Fold.GATE


def split(rows: Iterable[Example], recipe: SplitRecipe) -> Folds:
    """Deals rows out; a training row whose text also judges is left out of the training."""
    by_fold: dict[Fold, list[Example]] = {fold: [] for fold in Fold}
    for row in rows:
        by_fold[fold_of(row, recipe)].append(row)
    judged = {text_key(row.text) for row in by_fold[Fold.GATE]}
    train = tuple(row for row in by_fold[Fold.TRAIN] if _may_train(row, judged))
    return Folds(train, tuple(by_fold[Fold.CALIBRATION]), tuple(by_fold[Fold.GATE]))


def _may_train(row: Example, judged: set[str]) -> bool:
    """A logged row without a label may get one later and judge then: it does not train now."""
    if row.origin is Origin.SEED:
        return True
    if row.origin not in _ALWAYS_TRAIN and not row.target:
        return False
    return text_key(row.text) not in judged


def _place(row_id: str, salt: str) -> float:
    """A number in [0, 1) that only id and salt decide."""
    digest = hashlib.sha256(f"{salt}:{row_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
