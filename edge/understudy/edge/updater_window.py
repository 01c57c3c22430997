"""When a node may download: a stretch of local time, possibly over midnight."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from understudy.types.errors import InvalidValueError

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DAY_MIN = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWindow:
    """A daily stretch of local time.

    Attributes:
        start: `HH:MM` at which it opens; empty for always open.
        end: `HH:MM` at which it closes; before `start` it closes on the next day.
    """

    start: str = ""
    end: str = ""

    def __post_init__(self) -> None:
        if bool(self.start) != bool(self.end):
            raise InvalidValueError("an update window needs both a start and an end, as HH:MM")
        if self.start and (_minutes(self.start) == _minutes(self.end)):
            raise InvalidValueError("an update window must not end when it starts")

    def opens_in_s(self, unix_s: float) -> float:
        """Seconds until it is open; 0 while it is."""
        if not self.start:
            return 0.0
        local = datetime.fromtimestamp(unix_s).astimezone()
        now = local.hour * 60 + local.minute
        start, end = _minutes(self.start), _minutes(self.end)
        is_open = start <= now < end if start < end else now >= start or now < end
        if is_open:
            return 0.0
        return float((start - now) % _DAY_MIN * 60 - local.second)


def _minutes(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidValueError(f"'{text}' is no time of day; write it as HH:MM")
    return int(match[1]) * 60 + int(match[2])
