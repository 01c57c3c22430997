"""One training or evaluation row as the night sees it, and how rows of the log become one.

Law: a row is `unbiased` only if whether the teacher labelled it did not depend on its content. That
holds when the audit coin fell; and, if the caller says that every request was escalated then, while
nothing was kept at all (infinite threshold).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from understudy.router.noise import judge_log
from understudy.types.decision import RecordKind
from understudy.types.errors import InvalidValueError
from understudy.types.records import LoggedRow, TeacherLabel

NONE_LABEL = "none_of_these"
"""What a teacher says of a request that no class fits; never a class itself."""


class Origin(StrEnum):
    """Where a row comes from."""

    SEED = "seed"
    ESCALATION = "escalation"
    AUDIT = "audit"
    REPLAY = "replay"
    FILE = "file"
    SYNTHETIC = "synthetic"
    UNLABELLED = "unlabelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a night.

    Attributes:
        id: Event id or row id; decides the fold.
        text: The input.
        label: Gold label by a person; empty when unknown.
        teacher: What the teacher said; None when it was not asked.
        origin: Where the row comes from.
        unbiased: True if the row is part of a uniform sample of the traffic.
        propensity: Probability that the row got a label, in (0, 1].
        weight: Training weight before tempering, positive.
        created_unix_s: When it was asked, seconds since 1970.
        node: Who sent it; empty when unknown.
        slice_name: Slice of the traffic it belongs to; empty for none.
        reliable: False if the teacher could not be trusted on it: little of its mass on labels, or
            another label for the same input.
        current: False if it was logged before the live watch heard that traffic had changed.
    """

    id: str
    text: str
    label: str = ""
    teacher: TeacherLabel | None = None
    origin: Origin = Origin.SEED
    unbiased: bool = False
    propensity: float = 1.0
    weight: float = 1.0
    created_unix_s: float = 0.0
    node: str = ""
    slice_name: str = ""
    reliable: bool = True
    current: bool = True

    def __post_init__(self) -> None:
        if not self.id:
            raise InvalidValueError("a row needs an id")
        if not 0.0 < self.propensity <= 1.0 or not self.weight > 0.0:
            raise InvalidValueError("propensity must lie in (0, 1] and weight must be positive")

    @property
    def target(self) -> str:
        """The label to learn: the teacher's, else the person's; empty when there is none."""
        return self.teacher.label if self.teacher is not None else self.label


def from_log(
    rows: Iterable[LoggedRow],
    *,
    uncertified_unbiased: bool = False,
    changes: Mapping[str, int] | None = None,
) -> tuple[Example, ...]:
    """Turns rows of the escalation log into examples; an event id that came twice counts once.

    Args:
        rows: Rows of the log.
        uncertified_unbiased: Count rows logged while nothing was kept as unbiased too.
        changes: Sequence of the log up to which rows are of other traffic than today's, by slice,
            "" for all traffic. An older row of such a slice counts for the whole alone.
    """
    found: dict[str, Example] = {}
    logged, since = list(rows), changes or {}
    trust = judge_log(logged).reliable
    for row, reliable in zip(logged, trust, strict=True):
        example = _from_logged(row, uncertified_unbiased=uncertified_unbiased)
        old = row.sequence <= since.get("", 0)
        name = "" if row.sequence <= since.get(example.slice_name, 0) else example.slice_name
        example = replace(example, reliable=reliable, current=not old, slice_name=name)
        kept = found.get(example.id)
        if kept is None or (kept.teacher is None and example.teacher is not None):
            found[example.id] = example
    return tuple(found.values())


def _from_logged(row: LoggedRow, *, uncertified_unbiased: bool) -> Example:
    record = row.record
    audited = record.kind is RecordKind.AUDIT or record.coin
    everything = uncertified_unbiased and math.isinf(record.threshold) and row.teacher is not None
    return Example(
        id=record.event_id,
        text=record.text,
        teacher=row.teacher,
        origin=Origin.AUDIT if audited else Origin.ESCALATION,
        unbiased=record.coin or everything,
        propensity=max(record.propensity, 1e-6),
        created_unix_s=record.created_unix_s,
        node=record.node,
        slice_name=record.slice_name,
    )


def text_key(text: str) -> str:
    """The content address of a text: case and white space do not count."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def with_teacher(row: Example, teacher: TeacherLabel) -> Example:
    """The same row with the teacher's answer."""
    return replace(row, teacher=teacher)
