"""Rows made fit to learn from: redacted, within the window, each text once.

Only rows that train are touched. What calibrates, certifies or judges stays as the traffic sent it,
or it would no longer be a sample of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from understudy.distill_loop.rows import Example, Origin, text_key
from understudy.types.records import TeacherLabel

_PATTERNS = (
    ("<email>", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")),
    ("<url>", re.compile(r"\bhttps?://\S+", re.IGNORECASE)),
    ("<iban>", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")),
    ("<number>", re.compile(r"(?<![\w<])\+?\d(?:[ -]?\d){6,}(?!\w)")),
)


def redact(text: str) -> str:
    """Replaces addresses, links, account and long numbers by tokens."""
    for token, pattern in _PATTERNS:
        text = pattern.sub(token, text)
    return text


def redact_rows(rows: Iterable[Example]) -> tuple[Example, ...]:
    """The same rows with redacted texts; the teacher's reasons quote them, so these are too."""
    return tuple(
        replace(row, text=redact(row.text), teacher=_redacted(row.teacher)) for row in rows
    )


def _redacted(teacher: TeacherLabel | None) -> TeacherLabel | None:
    if teacher is None or not teacher.rationale:
        return teacher
    return replace(teacher, rationale=redact(teacher.rationale))


def within(rows: Iterable[Example], now_unix_s: float, window_days: float) -> tuple[Example, ...]:
    """Rows young enough; seed rows and rows without a time never age."""
    oldest = now_unix_s - window_days * 86_400.0
    return tuple(
        row
        for row in rows
        if row.origin in {Origin.SEED, Origin.FILE} or not 0 < row.created_unix_s < oldest
    )


def dedup_exact(rows: Sequence[Example]) -> tuple[Example, ...]:
    """Each text once; its weight counts how often it came, and gold wins over the teacher."""
    kept: dict[str, Example] = {}
    for row in rows:
        key = text_key(row.text)
        first = kept.get(key)
        if first is None:
            kept[key] = row
        else:
            better = row if _rank(row) > _rank(first) else first
            kept[key] = replace(better, weight=first.weight + row.weight)
    return tuple(kept.values())


def _rank(row: Example) -> int:
    """Rows labelled by a person first, then those with a teacher's word, then the others."""
    return 2 if row.label else int(row.teacher is not None)


def readable(rows: Iterable[Example]) -> tuple[Example, ...]:
    """Rows with something in their text."""
    return tuple(row for row in rows if row.text.strip())


def unique_ids(rows: Iterable[Example]) -> tuple[Example, ...]:
    """Each id once; the first counts."""
    kept: dict[str, Example] = {}
    for row in rows:
        kept.setdefault(row.id, row)
    return tuple(kept.values())


def cap_nodes(rows: Sequence[Example], share: float) -> tuple[Example, ...]:
    """Scales down the weight of nodes that send more than their share of the training.

    One node must not teach the fleet's student on its own. Rows without a node are not scaled.
    """
    totals: dict[str, float] = {}
    for row in rows:
        if row.node:
            totals[row.node] = totals.get(row.node, 0.0) + row.weight
    allowed = share * sum(totals.values())
    if share >= 1.0 or len(totals) * share < 1.0:
        return tuple(rows)
    return tuple(
        replace(row, weight=row.weight * allowed / totals[row.node])
        if row.node and totals[row.node] > allowed
        else row
        for row in rows
    )
