"""When is a night due, and when only a refresh? A rule over values; whoever schedules asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from understudy.distill_loop.recipe import ScheduleRecipe


class Due(StrEnum):
    """What to run now."""

    NIGHT = "night"
    REFRESH = "refresh"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """How long ago things happened.

    Attributes:
        now_unix_s: Seconds since 1970.
        last_night_unix_s: When the last night ended; 0 for never.
        last_refresh_unix_s: When head or night last shipped; 0 for never.
        labels_since_night: New labels since the last night.
        labels_since_refresh: New labels since the last refresh or night.
        drift: True while the drift alarm rings.
    """

    now_unix_s: float
    last_night_unix_s: float = 0.0
    last_refresh_unix_s: float = 0.0
    labels_since_night: int = 0
    labels_since_refresh: int = 0
    drift: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What is due, and why, for the log."""

    due: Due
    why: str


def loop_state(
    answered_unix_s: Sequence[float],
    clock: Mapping[str, float],
    now_unix_s: float,
    *,
    drift: bool = False,
) -> LoopState:
    """How long ago things happened, from when answers came and when night and refresh ended.

    Args:
        answered_unix_s: When each answer of the teacher was logged.
        clock: When `night` and `refresh` last ended; missing for never.
        now_unix_s: Now.
        drift: True while the drift alarm rings.
    """
    night, refresh = clock.get("night", 0.0), clock.get("refresh", 0.0)
    return LoopState(
        now_unix_s=now_unix_s,
        last_night_unix_s=night,
        last_refresh_unix_s=refresh,
        labels_since_night=sum(at > night for at in answered_unix_s),
        labels_since_refresh=sum(at > refresh for at in answered_unix_s),
        drift=drift,
    )


def what_is_due(state: LoopState, recipe: ScheduleRecipe) -> Call:
    """A night by drift, volume or time; else a refresh by volume or time; else nothing.

    Nothing is due without news: the same rows would give the same student.
    """
    if state.labels_since_night == 0:
        return Call(Due.NOTHING, "no new label since the last night")
    if state.drift and recipe.on_drift:
        return Call(Due.NIGHT, "the drift alarm rings")
    if 0 < recipe.min_new_labels <= state.labels_since_night:
        return Call(Due.NIGHT, f"{state.labels_since_night} new labels")
    hours = (state.now_unix_s - state.last_night_unix_s) / 3600.0
    if hours >= recipe.every_hours:
        return Call(Due.NIGHT, f"the last night was {hours:.0f} hours ago")
    return _refresh(state, recipe)


def _refresh(state: LoopState, recipe: ScheduleRecipe) -> Call:
    if state.labels_since_refresh == 0:
        return Call(Due.NOTHING, "no new label since the last refresh")
    if 0 < recipe.refresh_labels <= state.labels_since_refresh:
        return Call(Due.REFRESH, f"{state.labels_since_refresh} new labels")
    minutes = (state.now_unix_s - state.last_refresh_unix_s) / 60.0
    if 0 < recipe.refresh_minutes <= minutes:
        return Call(Due.REFRESH, f"the last refresh was {minutes:.0f} minutes ago")
    return Call(Due.NOTHING, "too little new for a refresh")
