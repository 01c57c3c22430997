"""Concurrent escalations share a call; one alone does not wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import pytest

from simulators.cloud_gateway import label
from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.metrics import Metrics
from understudy.cloud.teacher import ScoreRequest
from understudy.types.errors import (
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

Outcome = TeacherLabel | UnderstudyError


class SlowTeacher:
    """Answers when told to; keeps the sizes of its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.texts: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.odd: Exception | None = None
        self.short = False

    async def score_labels(self, requests: Sequence[ScoreRequest]) -> list[Outcome]:
        self.sizes.append(len(requests))
        self.texts += [request.text for request in requests]
        await self.open.wait()
        if self.odd:
            raise self.odd
        answers = [self._answer(request.text) for request in requests]
        return answers[1:] if self.short else answers

    def _answer(self, text: str) -> Outcome:
        return InvalidValueError("this one is odd") if text == "odd" else label()


def ask(text: str = "hi", left_s: float = math.inf) -> ScoreRequest:
    return ScoreRequest(text=text, deadline_unix_s=time.time() + left_s)


async def settle() -> None:
    """Lets everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_inputs_that_are_there_together_go_together() -> None:
    """A call costs the same for one input as for many."""

    async def run() -> list[int]:
        teacher = SlowTeacher()
        gatherer = Gatherer(teacher, Metrics())
        await asyncio.gather(*(gatherer.score(ask()) for _ in range(20)))
        await gatherer.close()
        return teacher.sizes

    assert [20] == asyncio.run(run())


def test_a_batch_is_bounded() -> None:
    """The teacher's memory is."""

    async def run() -> list[int]:
        teacher = SlowTeacher()
        gatherer = Gatherer(teacher, Metrics(), max_batch=8, max_wait_s=0.0)
        await asyncio.gather(*(gatherer.score(ask()) for _ in range(20)))
        await gatherer.close()
        return teacher.sizes

    assert [8, 8, 4] == asyncio.run(run())


def test_one_alone_leaves_at_the_next_turn_of_the_loop() -> None:
    """Waiting for company is for those who have company; no clock is needed to see it."""

    async def run() -> list[int]:
        teacher = SlowTeacher()
        gatherer = Gatherer(teacher, Metrics(), max_wait_s=1000.0)
        lone = asyncio.create_task(gatherer.score(ask()))
        await settle()
        sizes = list(teacher.sizes)
        await lone
        await gatherer.close()
        return sizes

    assert [1] == asyncio.run(run())


def test_inputs_wait_for_a_free_call() -> None:
    """A teacher that is busy is not flooded; what waits goes together."""

    async def run() -> list[int]:
        teacher = SlowTeacher()
        teacher.open.clear()
        gatherer = Gatherer(teacher, Metrics(), max_calls=1, max_wait_s=0.0)
        asked = []
        for _ in range(5):
            asked.append(asyncio.create_task(gatherer.score(ask())))
            await settle()
        teacher.open.set()
        await asyncio.gather(*asked)
        await gatherer.close()
        return teacher.sizes

    assert [1, 4] == asyncio.run(run())


def test_beyond_the_queue_patience_is_asked_for() -> None:
    """Memory is bounded, and an early no is worth more than a late one."""

    async def run() -> None:
        teacher = SlowTeacher()
        teacher.open.clear()
        gatherer = Gatherer(teacher, Metrics(), max_calls=1, max_queue=2)
        asked = [asyncio.create_task(gatherer.score(ask()))]
        await settle()
        asked += [asyncio.create_task(gatherer.score(ask())) for _ in range(2)]
        await settle()
        assert 2 == gatherer.waiting
        with pytest.raises(OverloadedError):
            await gatherer.score(ask())
        teacher.open.set()
        await asyncio.gather(*asked)
        await gatherer.close()

    asyncio.run(run())


def test_an_error_belongs_to_its_input() -> None:
    """One odd text must not spoil its neighbours."""

    async def run() -> list[object]:
        gatherer = Gatherer(SlowTeacher(), Metrics())
        outcomes = await asyncio.gather(
            *(gatherer.score(ask(text)) for text in ("a", "odd", "b")), return_exceptions=True
        )
        await gatherer.close()
        return list(outcomes)

    first, odd, last = asyncio.run(run())
    assert label() == first == last
    assert isinstance(odd, InvalidValueError)


@pytest.mark.parametrize(
    ("odd", "short", "kind"),
    [
        pytest.param(LinkDownError("gone"), False, LinkDownError, id="the whole call failed"),
        pytest.param(RuntimeError("?"), False, TeacherError, id="an error nobody foresaw"),
        pytest.param(None, True, TeacherError, id="too few answers"),
    ],
)
def test_a_call_that_fails_fails_for_each(
    odd: Exception | None, short: bool, kind: type[UnderstudyError]
) -> None:
    """Nobody is left waiting."""

    async def run() -> list[object]:
        teacher = SlowTeacher()
        teacher.odd, teacher.short = odd, short
        gatherer = Gatherer(teacher, Metrics())
        outcomes = await asyncio.gather(
            *(gatherer.score(ask()) for _ in range(3)), return_exceptions=True
        )
        await gatherer.close()
        return list(outcomes)

    assert {kind} == {type(outcome) for outcome in asyncio.run(run())}


def test_whoever_has_no_time_left_is_not_asked_about() -> None:
    """The teacher's work would be for nobody."""

    async def run() -> list[str]:
        teacher = SlowTeacher()
        gatherer = Gatherer(teacher, Metrics())
        late = asyncio.create_task(gatherer.score(ask("late", left_s=-1.0)))
        gone = asyncio.create_task(gatherer.score(ask("gone")))
        await asyncio.sleep(0)
        gone.cancel()
        assert label() == await gatherer.score(ask("here"))
        with pytest.raises(DeadlineError):
            await late
        await gatherer.close()
        return teacher.texts

    assert ["here"] == asyncio.run(run())


def test_a_teacher_that_never_answers_is_given_up() -> None:
    """Every call has an end, with or without a deadline of the caller."""

    async def run() -> None:
        teacher = SlowTeacher()
        teacher.open.clear()
        gatherer = Gatherer(teacher, Metrics(), timeout_s=0.02)
        with pytest.raises(DeadlineError, match="did not answer"):
            await gatherer.score(ask())
        await gatherer.close()

    asyncio.run(run())


def test_closing_answers_everybody() -> None:
    """A drain waits for the calls under way and refuses the rest."""

    async def run() -> tuple[object, object]:
        teacher = SlowTeacher()
        teacher.open.clear()
        gatherer = Gatherer(teacher, Metrics(), max_calls=1)
        under_way = asyncio.create_task(gatherer.score(ask()))
        await settle()
        waiting = asyncio.create_task(gatherer.score(ask()))
        await settle()
        closing = asyncio.create_task(gatherer.close())
        await settle()
        teacher.open.set()
        await closing
        outcomes = await asyncio.gather(under_way, waiting, return_exceptions=True)
        with pytest.raises(LinkDownError):
            await gatherer.score(ask())
        return outcomes[0], outcomes[1]

    done, refused = asyncio.run(run())
    assert label() == done
    assert isinstance(refused, LinkDownError)
