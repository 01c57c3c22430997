"""Which records are taken: pure rules, each with one clear sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.cloud.config import TaskConfig
from understudy.types.config import nearest_key
from understudy.types.errors import InvalidValueError
from understudy.types.records import EscalationRecord

_EVENT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_TOP = 64
_MAX_WORD = 256


@dataclass(frozen=True, slots=True)
class RecordRules:
    """What a record must keep to be taken.

    Attributes:
        tasks: Tasks by name.
        max_text_bytes: Longest input, UTF-8.
        clock_skew_s: How far an edge clock may be ahead.
    """

    tasks: Mapping[str, TaskConfig]
    max_text_bytes: int
    clock_skew_s: float
    _labels: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._labels.update({name: frozenset(task.labels) for name, task in self.tasks.items()})

    def check(self, record: EscalationRecord, now_unix_s: float) -> None:
        """Passes, or says what is wrong with the record.

        Raises:
            InvalidValueError: The message says what the node must change.
        """
        if not _EVENT_ID.fullmatch(record.event_id):
            raise InvalidValueError("event_id must be a UUIDv7 in lower case")
        if record.task not in self.tasks:
            close = nearest_key(record.task, self.tasks)
            raise InvalidValueError(f"task '{record.task[:64]}' is unknown to this cloud.{close}")
        self._check_text(record.text)
        self._check_labels(record)
        ahead_s = record.created_unix_s - now_unix_s
        if ahead_s > self.clock_skew_s:
            raise InvalidValueError(
                f"the record is from {ahead_s:.0f} s in the future; set the node's clock"
            )

    def _check_text(self, text: str) -> None:
        if not text.strip():
            raise InvalidValueError("the text is empty; there is nothing to ask")
        size = len(text.encode())
        if size > self.max_text_bytes:
            raise InvalidValueError(
                f"the text has {size} bytes; at most {self.max_text_bytes} are taken, shorten it"
            )
        if "\x00" in text:
            raise InvalidValueError("the text holds a NUL character; remove it")

    def _check_labels(self, record: EscalationRecord) -> None:
        longest = max(len(record.subject), len(record.slice_name))
        if len(record.top) > _MAX_TOP or longest > _MAX_WORD:
            raise InvalidValueError(
                f"send at most {_MAX_TOP} labels, and a subject and slice_name of {_MAX_WORD}"
            )
        known = self._labels[record.task]
        for entry in record.top:
            if known and entry.label not in known:
                close = nearest_key(entry.label, known) if len(known) < 1000 else ""
                hint = close if close.startswith(" Did") else ""
                raise InvalidValueError(
                    f"label '{entry.label[:64]}' is unknown to task '{record.task}'.{hint}"
                )
