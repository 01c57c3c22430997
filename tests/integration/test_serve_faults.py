"""Ray Serve under stress: full queues, lateness, killed replicas, dead engines."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio

from simulators.replicas import DEAD, HELD, SEEN, TroubledReplica
from understudy.cloud.ray_start import RayOptions
from understudy.cloud.serve_client import ServeTeacher
from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.teacher import ScoreRequest
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import DeadlineError, LinkDownError, OverloadedError, UnderstudyError
from understudy.types.records import TeacherLabel

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]

T = TypeVar("T")


class Trouble:
    """A served teacher, and the folder that tells its replica what to do."""

    def __init__(self, teacher: ServeTeacher, folder: Path) -> None:
        self.teacher = teacher
        self._folder = folder

    def make(self, word: str) -> None:
        (self._folder / word).touch()

    def end(self, word: str) -> None:
        (self._folder / word).unlink()

    def seen(self) -> list[str]:
        path = self._folder / SEEN
        return path.read_text().split() if path.exists() else []

    async def ask(self, text: str, patience_s: float = 60.0) -> TeacherLabel | UnderstudyError:
        deadline = time.time() + patience_s
        (answer,) = await self.teacher.score_labels(
            [ScoreRequest(text=text, deadline_unix_s=deadline)]
        )
        return answer

    async def process(self) -> int:
        """Number of the replica's process; waits until one answers."""
        answer = await eventually(lambda: self.ask("who", 5.0), TeacherLabel)
        return int(answer.teacher.partition(":")[2])


async def eventually(
    ask: Callable[[], Awaitable[object]], kind: type[T], within_s: float = 60.0
) -> T:
    """Asks until the answer is of a kind."""
    async with asyncio.timeout(within_s):
        while not isinstance(answer := await ask(), kind):  # noqa: ASYNC110 - the far side is a process
            await asyncio.sleep(0.05)
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trouble(
    ray_serve: RayOptions, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Trouble]:
    folder = tmp_path_factory.mktemp("trouble")
    options = ServeOptions(
        app="trouble",
        max_ongoing_calls=1,
        max_queued_calls=1,
        retry_after_s=0.25,
        health_period_s=0.5,
        health_timeout_s=5.0,
        drain_s=1.0,
        replica_cpus=0.1,
        # A replica is another process, which does not look into `tests` by itself.
        environment={"PYTHONPATH": str(Path(__file__).parents[1])},
        ray=ray_serve,
    )
    spec = TeacherSpec(engine=Engine.REPLAY, recordings=str(folder))
    teacher = ServeTeacher(spec, options, deployment=TroubledReplica)
    await teacher.start()
    yield Trouble(teacher, folder)
    await teacher.stop()


async def test_more_calls_than_may_wait_are_asked_for_patience(trouble: Trouble) -> None:
    """Refusing early keeps the answers of those who wait within their deadlines."""
    trouble.make(HELD)
    calls = [asyncio.create_task(trouble.ask(f"call-{index}")) for index in range(6)]
    done, waiting = await asyncio.wait(calls, timeout=30.0, return_when=asyncio.FIRST_COMPLETED)
    trouble.end(HELD)
    answers = await asyncio.gather(*calls)

    refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert done
    assert waiting
    assert refused
    assert {0.25} == {error.retry_after_s for error in refused}
    assert any(isinstance(answer, TeacherLabel) for answer in answers)


async def test_a_caller_whose_deadline_passes_is_told_so(trouble: Trouble) -> None:
    trouble.make(HELD)
    answer = await trouble.ask("late", patience_s=0.3)
    trouble.end(HELD)

    assert isinstance(answer, DeadlineError)


async def test_work_that_expired_in_the_queue_never_reaches_the_teacher(trouble: Trouble) -> None:
    """Nobody waits for it any more; working on it would make the next one late, too."""
    trouble.make(HELD)
    requests = [
        ScoreRequest(text="expired", deadline_unix_s=time.time() + 0.2),
        ScoreRequest(text="patient", deadline_unix_s=time.time() + 60.0),
    ]
    call = asyncio.create_task(trouble.teacher.score_labels(requests))
    await asyncio.wait([call], timeout=0.4)
    trouble.end(HELD)
    expired, patient = await call

    assert isinstance(expired, DeadlineError)
    assert isinstance(patient, TeacherLabel)
    assert "patient" in trouble.seen()
    assert "expired" not in trouble.seen()


async def test_a_replica_has_the_same_claim_on_a_processor_as_its_gateway(
    trouble: Trouble,
) -> None:
    """Ray starts its workers as background work, which on a busy machine comes last."""
    replica = os.getpriority(os.PRIO_PROCESS, await trouble.process())

    assert os.getpriority(os.PRIO_PROCESS, 0) == replica


async def test_a_killed_replica_costs_its_calls_and_is_replaced(trouble: Trouble) -> None:
    first = await trouble.process()
    trouble.make(HELD)
    call = asyncio.create_task(trouble.ask("lost", patience_s=20.0))
    await asyncio.wait([call], timeout=0.3)

    os.kill(first, signal.SIGKILL)
    answer = await call
    trouble.end(HELD)
    second = await trouble.process()

    assert isinstance(answer, LinkDownError | TeacherLabel)
    assert first != second


async def test_a_dead_engine_takes_its_replica_with_it_and_a_new_one_answers(
    trouble: Trouble,
) -> None:
    """A replica that runs but cannot answer would swallow requests for ever."""
    first = await trouble.process()
    trouble.make(DEAD)

    async def number() -> str | None:
        now = await trouble.process()
        return None if now == first else str(now)

    assert await eventually(number, str)
    await trouble.teacher.health()
