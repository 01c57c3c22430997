"""What the page shows of the past: nights as they were ruled, and what was worth asking.

Both readers are bounded, and neither raises for one file or row that cannot be read: a page that
shows the rest is worth more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from understudy.types.decision import RecordKind
from understudy.types.records import LoggedRow

MAX_NIGHTS = 14
MAX_ESCALATIONS = 12
MAX_TEXT_CHARS = 160

# A net, not a proof: what leaves a product is redacted there already, if its owner says so.
_PATTERNS = (
    (re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), "[email]"),
    (re.compile(r"\b(?:https?://|www\.)\S{1,2000}", re.IGNORECASE), "[link]"),
    (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), "[account]"),
    (re.compile(r"\d(?:[\s.\-/]?\d){2,}"), "[number]"),
)


def redacted(text: str) -> str:
    """A text without addresses, links, accounts and numbers of three digits or more, cut short."""
    short = text[: 4 * MAX_TEXT_CHARS]
    for pattern, word in _PATTERNS:
        short = pattern.sub(word, short)
    return short if len(short) <= MAX_TEXT_CHARS else short[: MAX_TEXT_CHARS - 1] + "…"


def read_nights(folder: Path, reports: Path | None = None) -> list[dict[str, Any]]:
    """The last nights, newest first, from the results that the loop has left.

    Args:
        folder: The workspace's folder of results, `NAME.json` each.
        reports: Folder of reports; a night's is named if it is there.
    """
    if not folder.is_dir():
        return []
    files = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    nights = (_night(path, reports) for path in islice(files, MAX_NIGHTS))
    return [night for night in nights if night]


def _night(path: Path, reports: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    checks = [c for c in found.get("checks", []) if isinstance(c, dict)]
    trouble = [str(c.get("says", "")) for c in checks if c.get("outcome") != "pass"]
    report = f"{path.stem}.html"
    there = reports is not None and (reports / report).is_file()
    return {
        "date": path.stem,
        "verdict": str(found.get("ruling", "")),
        "reason": "; ".join(trouble[:2]) or _standing(found),
        "bundle": str(found.get("bundle", "")),
        "seconds": _total(found.get("seconds")),
        "report": report if there else "",
    }


def _standing(found: dict[str, Any]) -> str:
    if found.get("certified"):
        return f"certified; keeps {float(found.get('keep_rate', 0.0)):.0%}"
    return f"not certified; {found.get('rows_missing', 0)} more audited rows needed"


def _total(seconds: object) -> float:
    parts = seconds.values() if isinstance(seconds, dict) else [seconds]
    return round(sum(float(s) for s in parts if isinstance(s, int | float) and isfinite(s)), 1)


def informative(rows: Iterable[LoggedRow]) -> list[dict[str, Any]]:
    """The rows from which a student can learn most, best first, redacted.

    A wrong answer that was kept teaches most, a wrong one that was escalated next, then the least
    confident.

    Args:
        rows: Recent rows of the log; all of them are looked at, so the caller bounds them.
    """
    best = sorted(rows, key=_worth, reverse=True)
    return [_escalation(row) for row in best[:MAX_ESCALATIONS]]


def _worth(row: LoggedRow) -> tuple[bool, bool, float]:
    wrong = row.teacher is not None and row.teacher.label != row.record.student_label
    kept = row.record.kind is RecordKind.AUDIT
    return wrong and kept, wrong, -row.record.confidence


def _escalation(row: LoggedRow) -> dict[str, Any]:
    record = row.record
    return {
        "event_id": record.event_id,
        "kind": record.kind.value,
        "text": redacted(record.text),
        "confidence": record.confidence,
        "student_label": record.student_label,
        "teacher_label": row.teacher.label if row.teacher else "",
        "unix_s": record.created_unix_s,
    }
