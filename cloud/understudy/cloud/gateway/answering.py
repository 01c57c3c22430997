"""One escalation's way: the teacher answers, the row becomes durable, the node hears the answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from understudy.cloud.cache import AnswerCache, answer_key
from understudy.cloud.config import TaskConfig
from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.gateway.ports import Observer
from understudy.cloud.gateway.writer import LogWriter
from understudy.cloud.log import NewRow
from understudy.cloud.quotas import Quotas
from understudy.cloud.teacher import ScoreRequest
from understudy.types.errors import TeacherError, UnderstudyError
from understudy.types.records import EscalationRecord, TeacherLabel

_MAX_RECENT = 10_000


@dataclass(frozen=True, slots=True)
class Answered:
    """What the teacher said, and whether it said so before."""

    label: TeacherLabel
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Asking:
    """What comes with a call beside its record.

    Attributes:
        left_s: Seconds until the caller gives up; infinite for never.
        trace: W3C `traceparent`; empty for none.
    """

    left_s: float = math.inf
    trace: str = ""


class Answering:
    """Answers records; the same event of the same node is answered the same and logged once."""

    def __init__(
        self,
        *,
        gatherer: Gatherer,
        writer: LogWriter,
        quotas: Quotas,
        tasks: Mapping[str, TaskConfig],
        observer: Observer,
        cache: AnswerCache | None = None,
        teacher_id: Callable[[], str] = lambda: "",
    ) -> None:
        self._gatherer = gatherer
        self._writer = writer
        self._quotas = quotas
        self._tasks = tasks
        self._observer = observer
        self._cache = cache
        self._teacher_id = teacher_id
        self._running: dict[tuple[str, str], list[asyncio.Future[Answered | None]]] = {}
        self._recent: OrderedDict[tuple[str, str], TeacherLabel] = OrderedDict()
        self._late: set[asyncio.Task[None]] = set()

    async def answer(self, record: EscalationRecord, asking: Asking) -> Answered:
        """The teacher's label, durable in the log.

        Raises:
            UnderstudyError: If there is none; nothing is logged then, and the node keeps the row.
        """
        key = (record.node, record.event_id)
        if (known := self._recent.get(key)) is not None:
            return Answered(known)
        while (waiters := self._running.get(key)) is not None:
            joined: asyncio.Future[Answered | None] = asyncio.get_running_loop().create_future()
            waiters.append(joined)
            if (shared := await joined) is not None:
                return shared
        self._running[key] = []
        try:
            answered = await self._ask_and_log(record, asking)
        except BaseException as error:
            self._release(key, error)
            raise
        self._remember(key, answered.label)
        self._release(key, answered)
        return answered

    async def _ask_and_log(self, record: EscalationRecord, asking: Asking) -> Answered:
        labels = self._tasks[record.task].labels
        key = self._key(record, labels)
        label = await self._recall(key)
        cached = label is not None
        if label is None:
            label = await self._ask(record, labels, asking)
            self._observer.answered(record.task, "predict")
            if self._cache is not None and key is not None:
                await self._cache.put(key, label)
        (row,) = await self._writer.append([NewRow(record, label)])
        if row.teacher is None:
            raise TeacherError("the log returned the row without the label it was given")
        self._observer.took((record,), "predict")
        return Answered(row.teacher, cached)

    def _key(self, record: EscalationRecord, labels: tuple[str, ...]) -> str | None:
        if self._cache is None:
            return None
        return answer_key(self._teacher_id(), record.task, labels, record.text)

    async def _recall(self, key: str | None) -> TeacherLabel | None:
        if self._cache is None or key is None:
            return None
        label = await self._cache.get(key)
        self._observer.looked_up(found=label is not None)
        return label

    async def _ask(
        self, record: EscalationRecord, labels: tuple[str, ...], asking: Asking
    ) -> TeacherLabel:
        self._quotas.spend_teacher(record.node, 1)
        return await self._gatherer.score(
            ScoreRequest(
                text=record.text,
                labels=labels,
                deadline_unix_s=time.time() + asking.left_s,
                trace=asking.trace,
            ),
            partial(self._take_late, record),
        )

    def _take_late(self, record: EscalationRecord, label: TeacherLabel) -> None:
        """The caller's time is over; what the teacher said is worth keeping all the same."""
        self._observer.answered(record.task, "predict")
        task = asyncio.create_task(self._log_late(record, label))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _log_late(self, record: EscalationRecord, label: TeacherLabel) -> None:
        # Whatever goes wrong here, the node still has the row and will report it.
        with suppress(UnderstudyError):
            await self._writer.append([NewRow(record, label)])
            self._remember((record.node, record.event_id), label)
            self._observer.took((record,), "predict")

    def _remember(self, key: tuple[str, str], label: TeacherLabel) -> None:
        self._recent[key] = label
        if len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)

    def _release(self, key: tuple[str, str], outcome: Answered | BaseException) -> None:
        """Tells those who asked the same; after a call that was given up, one of them goes on."""
        for waiter in self._running.pop(key):
            if waiter.done():
                continue
            if isinstance(outcome, Answered):
                waiter.set_result(outcome)
            elif isinstance(outcome, Exception):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(None)
