"""What the gate looks at and what it says: values, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.recipe import GateRecipe
from understudy.types.contract import Certificate

Bools = NDArray[np.bool_]
Numbers = NDArray[np.float64]


class Outcome(StrEnum):
    """What one check found."""

    PASS = "pass"  # noqa: S105 - an outcome
    FAIL = "fail"
    UNDECIDED = "undecided"


class Ruling(StrEnum):
    """What happens to the challenger."""

    PROMOTE = "promote"
    KEEP = "keep"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Check:
    """One check with its numbers.

    Attributes:
        name: Name, stable across versions.
        outcome: What it found.
        value: What was measured; NaN when nothing could be.
        limit: What it was compared with; NaN when there is no limit.
        says: One sentence for a person.
        low: Lower end of what `value` may truly be, at the gate's level; NaN when it is exact.
        high: Upper end.
    """

    name: str
    outcome: Outcome
    value: float
    limit: float
    says: str
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word."""

    ruling: Ruling
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that speak against a promotion; empty for a promotion."""
        return tuple(c.says for c in self.checks if c.outcome is not Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What one student did on the N rows that judge.

    Attributes:
        right: Where it said what teacher or person say, (N,).
        confidence: Calibrated confidence as the policy acts on it, -1 where it must escalate, (N,).
        certificate: What was proved about it.
        encoder_bytes: Size of its encoder file.
        latency_ms: Time of one row by row, in the order both students were timed, (L,).
        finite: False if a logit or a vector of a judged row was no number.
        foreign: Confidence on rows outside every class, (F,).
        pinned_broken: Pinned rows it answers wrongly, by text.
        gold_right: Where it is right on rows labelled by a person, (G,).
    """

    right: Bools
    confidence: Numbers
    certificate: Certificate
    encoder_bytes: int = 0
    latency_ms: Numbers = field(default_factory=lambda: np.zeros(0))
    finite: bool = True
    foreign: Numbers = field(default_factory=lambda: np.zeros(0))
    pinned_broken: tuple[str, ...] = ()
    gold_right: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All the gate looks at.

    Attributes:
        new: The challenger.
        old: The champion; None when there is none.
        slices: Rows by slice name, masks of (N,): classes, nodes, lengths.
        agreed: Where the graph before and after compression name the same class, (M,).
        new_labels: Labels that came since the last night.
        same_classes: False if the challenger knows classes that the champion does not.
        alarms: What the data checks found suspicious, one sentence each.
        triggers: Phrases that pull the challenger's answers to one class, with the share they pull.
    """

    new: Sheet
    old: Sheet | None
    slices: Mapping[str, Bools] = field(default_factory=dict)
    agreed: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    new_labels: int = 0
    same_classes: bool = True
    alarms: tuple[str, ...] = ()
    triggers: Mapping[str, float] = field(default_factory=dict)


Judge = Callable[[Evidence, GateRecipe], Check]
