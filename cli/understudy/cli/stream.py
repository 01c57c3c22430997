"""Playing days of traffic against a world, a night after each: the loop of demo and simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from understudy.cli.days import DayReport, Observation, day_report, kept
from understudy.cli.output import Progress
from understudy.cli.report import Lesson, NightLine
from understudy.cli.rows import Row
from understudy.types.answer import Answer, Source
from understudy.types.decision import RecordKind
from understudy.types.records import LoggedRow

MOST_LESSONS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldState:
    """What is in force at the beginning of a day.

    Attributes:
        threshold: Infinite while nothing may be kept.
        certified: True if a certificate covers what is kept.
        bundle: Id of the student that answers.
    """

    threshold: float
    certified: bool
    bundle: str


class World(Protocol):
    """What a stream is played against: an embedded client, a cloud behind it, and nights."""

    def state(self) -> WorldState:
        """What is in force now."""
        ...

    def ask(self, row: Row) -> Answer:
        """One request through the edge."""
        ...

    def settle(self) -> None:
        """Waits until everything the edge spooled is in the log."""
        ...

    def logged(self) -> Mapping[str, LoggedRow]:
        """Rows of the log by event id, those of the current day at least."""
        ...

    def shadow(self, rows: Sequence[Row]) -> Sequence[str]:
        """What the teacher would say, off the record; empty words where that is not known."""
        ...

    def night(self, day: int) -> NightLine | None:
        """Learns, judges and ships; None if no night follows this day."""
        ...

    def test_accuracy(self) -> float | None:
        """Accuracy of the student in use on held-out rows; None without such rows."""
        ...


@dataclass(slots=True)
class Played:
    """What a stream came to; grows day by day."""

    days: list[DayReport] = field(default_factory=list)
    nights: list[NightLine] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    seen: list[Observation] = field(default_factory=list)
    night_calls: int = 0


def play(
    days: Sequence[Sequence[Row]],
    world: World,
    bar: Progress,
    *,
    new_labels: Mapping[int, tuple[str, ...]] | None = None,
) -> Played:
    """Plays the days in order; the bar advances by one a request."""
    played = Played()
    asked_before: dict[str, int] = {}
    for number, rows in enumerate(days, start=1):
        state = world.state()
        bar.say(f"day {number}")
        answers = []
        for row in rows:
            answers.append(world.ask(row))
            bar.advance()
        world.settle()
        evening = world.state()
        seen = observe(rows, answers, world.logged(), world.shadow(rows))
        played.seen += seen
        played.lessons += _lessons(rows, seen, asked_before, number)
        _remember_asked(seen, asked_before, number)
        bar.say(f"night {number}")
        night = world.night(number)
        if night is not None:
            played.nights.append(night)
            played.night_calls += night.teacher_calls
        played.days.append(
            day_report(
                number,
                seen,
                threshold=state.threshold,
                certified=state.certified,
                bundle=state.bundle,
                night_calls=night.teacher_calls if night else 0,
                test_accuracy=world.test_accuracy(),
                new_labels=(new_labels or {}).get(number, ()),
                withdrawn=state.certified and _lapsed(answers, evening),
            )
        )
    return played


def _lapsed(answers: Sequence[Answer], evening: WorldState) -> bool:
    """True if the certificate was gone in the evening, or gone and proved anew by then.

    The teacher's answers tell: under a certificate they carry it, and no budget takes it off them.
    """
    asked = (answer for answer in answers if answer.source is Source.TEACHER)
    return not evening.certified or not all(answer.certified for answer in asked)


def observe(
    rows: Sequence[Row],
    answers: Sequence[Answer],
    logged: Mapping[str, LoggedRow],
    teacher: Sequence[str],
) -> list[Observation]:
    """Puts together what was asked, answered, logged and would have been said."""
    return [
        _observation(row, answer, logged.get(answer.request_id), said)
        for row, answer, said in zip(rows, answers, teacher, strict=True)
    ]


def _observation(row: Row, answer: Answer, entry: LoggedRow | None, said: str) -> Observation:
    student = answer.label if answer.source is Source.STUDENT else ""
    if entry is not None and not student:
        student = entry.record.student_label
    return Observation(
        answer=answer,
        gold=row.label,
        teacher=said or (entry.teacher.label if entry and entry.teacher else ""),
        student=student,
        audited=entry is not None and entry.record.coin,
        asked=answer.source is Source.TEACHER or _audited(entry),
    )


def _audited(entry: LoggedRow | None) -> bool:
    """True if the teacher's word on a kept answer came; past the budget it is not asked."""
    return entry is not None and entry.record.kind is RecordKind.AUDIT and entry.teacher is not None


def _lessons(
    rows: Sequence[Row], seen: Sequence[Observation], asked: Mapping[str, int], day: int
) -> list[Lesson]:
    """Intents that always escalated until a night taught them: their first kept right answer."""
    found: dict[str, Lesson] = {}
    for row, o in zip(rows, seen, strict=True):
        if kept(o) and o.answer.label == o.teacher and asked.get(o.teacher) == day - 1:
            found.setdefault(o.teacher, Lesson(text=row.text, label=o.teacher, day=day - 1))
    return list(found.values())


def newest_lessons(lessons: Sequence[Lesson]) -> tuple[Lesson, ...]:
    """A few lessons for a report, those of the last nights first."""
    return tuple(sorted(lessons, key=lambda lesson: -lesson.day)[:MOST_LESSONS])


def _remember_asked(seen: Sequence[Observation], asked: dict[str, int], day: int) -> None:
    """Notes the last day on which no answer of an intent was kept."""
    answered = {o.teacher for o in seen if kept(o)}
    for o in seen:
        if o.teacher and o.teacher not in answered:
            asked[o.teacher] = day
