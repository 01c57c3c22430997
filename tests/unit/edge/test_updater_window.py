"""Rules of the update window: local time, midnight included."""

from __future__ import annotations

from datetime import datetime

import pytest

from understudy.edge.updater_window import UpdateWindow
from understudy.types.errors import InvalidValueError


def at(hour: int, minute: int = 0) -> float:
    return datetime(2026, 6, 15, hour, minute).astimezone().timestamp()


@pytest.mark.parametrize(
    ("start", "end", "hour", "wait_h"),
    [
        ("", "", 12, 0),
        ("01:00", "05:00", 2, 0),
        ("01:00", "05:00", 1, 0),
        ("01:00", "05:00", 5, 20),
        ("01:00", "05:00", 0, 1),
        ("22:00", "04:00", 23, 0),
        ("22:00", "04:00", 3, 0),
        ("22:00", "04:00", 4, 18),
        ("22:00", "04:00", 12, 10),
    ],
)
def test_it_opens_in(start: str, end: str, hour: int, wait_h: int) -> None:
    assert wait_h * 3600 == UpdateWindow(start=start, end=end).opens_in_s(at(hour))


@pytest.mark.parametrize(
    ("start", "end"),
    [("01:00", ""), ("", "02:00"), ("24:00", "02:00"), ("1:00", "02:00"), ("03:00", "03:00")],
)
def test_a_window_that_means_nothing_cannot_be_built(start: str, end: str) -> None:
    with pytest.raises(InvalidValueError):
        UpdateWindow(start=start, end=end)
