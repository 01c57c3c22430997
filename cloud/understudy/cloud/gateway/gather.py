"""Many concurrent escalations, one call to the teacher.

A call to the teacher costs the same for one input as for many, so inputs that are there at the same
moment go together. One that comes alone leaves at once. After a call has left, the next leaves when
its batch is full or `max_wait_s` later, so that inputs which arrive close together share a call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from understudy.cloud.gateway.ports import Observer, Teacher
from understudy.cloud.teacher import ScoreRequest
from understudy.types.errors import (
    DeadlineError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

_log = logging.getLogger(__name__)

Outcome = TeacherLabel | UnderstudyError
Late = Callable[[TeacherLabel], None]
LATE_S = 2.0
"""A call under way may run on for so long past its callers' deadline: the log wants its answer."""


@dataclass(slots=True)
class _Waiting:
    request: ScoreRequest
    outcome: asyncio.Future[Outcome]
    late: Late | None = None


class Gatherer:
    """Puts inputs to a teacher, gathered; belongs to one event loop."""

    def __init__(
        self,
        teacher: Teacher,
        observer: Observer,
        *,
        max_batch: int = 64,
        max_wait_s: float = 0.002,
        max_calls: int = 8,
        max_queue: int = 2048,
        timeout_s: float = 30.0,
    ) -> None:
        self._teacher = teacher
        self._observer = observer
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_calls = max_calls
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._queue: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._departed_s = -math.inf
        self._closed = False

    def __repr__(self) -> str:
        return f"<Gatherer waiting={len(self._queue)} calls={len(self._calls)}>"

    @property
    def waiting(self) -> int:
        """Inputs that no call has taken yet."""
        return len(self._queue)

    async def score(self, request: ScoreRequest, late: Late | None = None) -> TeacherLabel:
        """The teacher's answer to one input.

        Args:
            request: The input.
            late: Told the answer when it comes after the caller has gone.

        Raises:
            UnderstudyError: What the teacher said of this input; `OverloadedError` when too many
                wait, `DeadlineError` when the deadline passed first.
        """
        if self._closed:
            raise LinkDownError("the gateway is stopping; ask another, or again later")
        if len(self._queue) >= self._max_queue:
            raise OverloadedError("too many inputs wait for the teacher; come back later", 1.0)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(request, outcome, late))
        self._wake()
        found = await outcome
        if isinstance(found, UnderstudyError):
            raise found
        return found

    async def close(self) -> None:
        """Waits for the calls under way; what has not been asked yet is refused."""
        self._closed = True
        while self._queue:
            _settle(self._queue.popleft(), LinkDownError("the gateway is stopping"))
        if self._calls:
            await asyncio.wait(self._calls)
        if self._timer:
            self._timer.cancel()

    def _wake(self) -> None:
        """Decides when the next call leaves: now if it is full, soon otherwise."""
        if not self._queue or len(self._calls) >= self._max_calls:
            return
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._max_batch:
            self._depart()
        elif self._timer is None:
            due_s = self._departed_s + self._max_wait_s
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self._depart)
            else:
                # One turn of the loop lets everything that has already arrived come along.
                self._timer = loop.call_soon(self._depart)

    def _depart(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        batch = self._take(time.time())
        if batch:
            self._departed_s = asyncio.get_running_loop().time()
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._returned)
        self._wake()

    def _returned(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._wake()

    def _take(self, now_unix_s: float) -> list[_Waiting]:
        """The next batch; who has gone away or run out of time is not asked about."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.outcome.done():
                continue
            if waiting.request.deadline_unix_s <= now_unix_s:
                _settle(waiting, DeadlineError("the deadline passed before the teacher was asked"))
                continue
            batch.append(waiting)
        return batch

    async def _call(self, batch: Sequence[_Waiting]) -> None:
        started_s = time.perf_counter()
        outcomes = await self._ask([waiting.request for waiting in batch])
        failures = [outcome for outcome in outcomes if isinstance(outcome, UnderstudyError)]
        self._observer.asked(len(batch), time.perf_counter() - started_s, failures)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _settle(waiting, outcome)

    async def _ask(self, requests: Sequence[ScoreRequest]) -> Sequence[Outcome]:
        """One call; whatever goes wrong becomes the outcome of each input."""
        latest = max(request.deadline_unix_s for request in requests)
        left_s = min(self._timeout_s, latest - time.time() + LATE_S)
        error: UnderstudyError
        try:
            async with asyncio.timeout(left_s):
                outcomes = await self._teacher.score_labels(requests)
            if len(outcomes) == len(requests):
                return outcomes
            error = TeacherError(f"asked {len(requests)} inputs, got {len(outcomes)} answers")
        except TimeoutError:
            error = DeadlineError(f"the teacher did not answer within {left_s:.1f} s")
        except UnderstudyError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - a teacher may raise anything; callers must hear
            _log.exception("the teacher failed in a way nobody foresaw")
            error = TeacherError(f"the teacher failed: {type(raised).__name__}")
        return [error] * len(requests)


def _settle(waiting: _Waiting, outcome: Outcome) -> None:
    if not waiting.outcome.done():
        waiting.outcome.set_result(outcome)
    elif waiting.late is not None and isinstance(outcome, TeacherLabel):
        waiting.late(outcome)
