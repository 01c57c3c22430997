"""Teacher noise: rows on which the teacher cannot be trusted.

A teacher that puts little of its mass on any label did not follow the format; one that gives the
same input another label, under the same prompt, contradicts itself. Neither counts as an error of
the student, and both are reported apart. Setting rows aside changes the population the contract
speaks of, so the number is part of the certificate: where it is large, mend the teacher.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from understudy.types.errors import InvalidValueError
from understudy.types.records import LoggedRow, TeacherLabel

REMEMBERED = 4096
"""Inputs whose labels are kept against contradictions; for older ones the night looks again."""


class Trust(StrEnum):
    """Whether a teacher's label can be used."""

    RELIABLE = "reliable"
    LOW_MASS = "low_mass"
    UNSURE = "unsure"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True, slots=True)
class NoiseRule:
    """What a label must bring.

    Attributes:
        min_label_mass: Least share of the teacher's distribution on labels at all, in [0, 1].
        min_probability: Least probability of the named label, in [0, 1]; 0 asks nothing.
    """

    min_label_mass: float = 0.5
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.min_label_mass <= 1.0 and 0.0 <= self.min_probability <= 1.0):
            raise InvalidValueError("least mass and probability must lie in [0, 1]")


@dataclass(frozen=True, slots=True)
class NoiseReport:
    """The rows of a log by what their labels are worth.

    Attributes:
        trust: One word a row, in the order given; rows without label are reliable (their absence
            is the certificate's business).
        low_mass: Rows with too little mass on labels.
        unsure: Rows with too little probability on the named label.
        contradictions: Rows whose text was given different labels.
    """

    trust: tuple[Trust, ...]
    low_mass: int
    unsure: int
    contradictions: int

    @property
    def reliable(self) -> tuple[bool, ...]:
        """True where a row counts."""
        return tuple(t is Trust.RELIABLE for t in self.trust)


def judge(label: TeacherLabel, rule: NoiseRule, earlier: str = "") -> Trust:
    """Judges one label.

    Args:
        label: What the teacher said.
        rule: What a label must bring.
        earlier: What it said of the same input before; empty when it was never asked.
    """
    if label.label_mass < rule.min_label_mass:
        return Trust.LOW_MASS
    if label.probability < rule.min_probability:
        return Trust.UNSURE
    if earlier and earlier != label.label:
        return Trust.CONTRADICTION
    return Trust.RELIABLE


def judge_log(rows: Iterable[LoggedRow], rule: NoiseRule | None = None) -> NoiseReport:
    """Judges all rows; every row of a text with two labels is a contradiction, the first too."""
    found = list(rows)
    said: dict[str, set[str]] = {}
    for row in found:
        if row.teacher is not None:
            said.setdefault(question(row, row.teacher), set()).add(row.teacher.label)
    trust = tuple(_judge_row(row, rule or NoiseRule(), said) for row in found)
    return NoiseReport(
        trust,
        low_mass=trust.count(Trust.LOW_MASS),
        unsure=trust.count(Trust.UNSURE),
        contradictions=trust.count(Trust.CONTRADICTION),
    )


def _judge_row(row: LoggedRow, rule: NoiseRule, said: dict[str, set[str]]) -> Trust:
    if row.teacher is None:
        return Trust.RELIABLE
    others = said[question(row, row.teacher)] - {row.teacher.label}
    return judge(row.teacher, rule, earlier=min(others, default=""))


def question(row: LoggedRow, asked: TeacherLabel) -> str:
    """Names what the teacher was asked: the input, by this teacher, under this prompt.

    A digest, because inputs are long and personal. Another model may well say something else.
    """
    parts = (row.record.task, asked.teacher, asked.prompt_hash, row.record.text)
    packed = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return hashlib.blake2b(packed, digest_size=8).hexdigest()


class Sayings:
    """What the teacher said of the inputs it heard lately; bounded, one writer.

    Beside the batch rule of `judge_log`: a log that is read once, row by row. The first of two
    contradicting rows was counted before the second came; every later one is set aside.
    """

    def __init__(self, said: Mapping[str, Sequence[str]] | None = None) -> None:
        """Goes on from what `to_dict` gave; begins anew without."""
        self._said: OrderedDict[str, tuple[str, ...]] = OrderedDict(
            (key, tuple(labels[:2])) for key, labels in (said or {}).items()
        )

    def recall(self, row: LoggedRow) -> str:
        """What was said of the row's input before, the other label if there were two.

        Remembers the row's own label; empty when there is none or the input is new.
        """
        if row.teacher is None:
            return ""
        key, label = question(row, row.teacher), row.teacher.label
        before = self._said.pop(key, ())
        # Two different labels are proof enough of a contradiction, whatever comes third.
        self._said[key] = before if label in before else (*before, label)[:2]
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return next((other for other in before if other != label), before[0] if before else "")

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data for JSON, oldest first."""
        return {key: list(labels) for key, labels in self._said.items()}
