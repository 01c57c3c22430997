"""A teacher is started, watched and started anew; the gateway never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from understudy.cloud.supervision import Patience, TeacherSupervisor
from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.types.errors import ConfigError, TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

QUICK = Patience(
    check_every_s=0.001, check_timeout_s=0.05, restart_after=3, retry_s=0.001, max_retry_s=0.002
)


class Moody:
    """Fails to start, fails its checks, or hangs, as told."""

    def __init__(self) -> None:
        self.starts = self.stops = 0
        self.start_failures: list[UnderstudyError] = []
        self.sick = False
        self.hangs = False

    def info(self) -> TeacherInfo:
        return TeacherInfo(id="moody", engine="replay")

    async def start(self) -> None:
        self.starts += 1
        if self.start_failures:
            raise self.start_failures.pop(0)

    async def health(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.sick:
            raise TeacherError("ill")

    async def stop(self, drain_s: float = 0.0) -> None:
        del drain_s
        self.stops += 1

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        return [TeacherError("not asked here") for _ in requests]

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        return [TeacherError("not asked here") for _ in requests]


def supervised(
    teacher: Moody, story: Callable[[TeacherSupervisor], Awaitable[None]], *, wait: bool
) -> list[bool]:
    """Runs a story beside a supervised teacher; gives what was told of its being up."""
    told: list[bool] = []

    async def tell(up: bool) -> None:
        told.append(up)

    async def run() -> None:
        supervisor = TeacherSupervisor(teacher, tell, patience=QUICK)
        async with supervisor.running(wait=wait):
            await asyncio.wait_for(story(supervisor), 20)

    asyncio.run(run())
    return told


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is the supervisor's state
        await asyncio.sleep(0.001)


def test_a_teacher_that_is_waited_for_is_up_when_the_gateway_is() -> None:
    """The demo's first request must not meet a cold teacher."""

    async def story(supervisor: TeacherSupervisor) -> None:
        assert supervisor.up

    teacher = Moody()
    supervised(teacher, story, wait=True)

    assert (1, 1) == (teacher.starts, teacher.stops)


def test_a_misconfigured_teacher_ends_a_start_that_waits_for_it() -> None:
    """A person must edit the file; serving without ever a teacher would hide it."""

    async def story(supervisor: TeacherSupervisor) -> None:
        raise AssertionError(f"unreachable: {supervisor.up}")

    teacher = Moody()
    teacher.start_failures = [ConfigError("teacher.model: no such folder")]

    with pytest.raises(ConfigError, match="no such folder"):
        supervised(teacher, story, wait=True)


@pytest.mark.parametrize("wait", [True, False])
def test_a_teacher_that_is_away_at_first_is_tried_again(wait: bool) -> None:
    """After a power cut everything comes up at once, in any order."""

    async def story(supervisor: TeacherSupervisor) -> None:
        await until(lambda: supervisor.up)

    teacher = Moody()
    teacher.start_failures = [TeacherError("not yet")] * 3

    supervised(teacher, story, wait=wait)

    assert 4 == teacher.starts


def test_without_waiting_even_a_wrong_configuration_is_tried_again() -> None:
    """`wait_for_teacher: false` says: serve weights whatever happens."""

    async def story(supervisor: TeacherSupervisor) -> None:
        await until(lambda: supervisor.up)

    teacher = Moody()
    teacher.start_failures = [ConfigError("no cluster there")]

    supervised(teacher, story, wait=False)


def test_a_teacher_that_falls_ill_is_said_and_comes_back() -> None:
    """Health by service: NOT_SERVING while it is away."""

    async def story(supervisor: TeacherSupervisor) -> None:
        teacher.sick = True
        await until(lambda: not supervisor.up)
        assert "ill" == supervisor.trouble
        teacher.sick = False
        await until(lambda: supervisor.up)

    teacher = Moody()
    told = supervised(teacher, story, wait=True)

    assert [True, False, True] == [up for i, up in enumerate(told) if i == 0 or told[i - 1] != up]


@pytest.mark.parametrize("way", ["sick", "hangs"])
def test_a_teacher_that_stays_away_is_started_anew(way: str) -> None:
    """Its own supervisor has had its chances; a check that hangs has failed."""

    async def story(supervisor: TeacherSupervisor) -> None:
        setattr(teacher, way, True)
        await until(lambda: teacher.stops >= 1)
        setattr(teacher, way, False)
        await until(lambda: supervisor.up and teacher.starts >= 2)

    teacher = Moody()
    supervised(teacher, story, wait=True)
