"""What one of the gateway processes does for all: watch the contract, label, tidy up.

A lease in the shared state decides which; it is short, so that another goes on when one dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

from understudy.cloud.config import Labelling
from understudy.cloud.gateway.ports import Observer, Teacher
from understudy.cloud.log import EscalationLog
from understudy.cloud.state import SharedState
from understudy.cloud.teacher import ScoreRequest
from understudy.cloud.watch import ContractWatch
from understudy.types.errors import UnderstudyError
from understudy.types.records import LoggedRow, TeacherLabel

_log = logging.getLogger(__name__)

LEASE_S = 10.0
_LEASE = "lease/duties"
_LABEL_ROWS = 32
_MAX_ATTEMPTS = 3
_IDLE_PRIORITY = 10
_TRIM_EVERY_S = 3600.0


class Lease:
    """At most one holder at a time, by compare-and-set on a value with a date."""

    def __init__(self, state: SharedState, key: str, now: Callable[[], float]) -> None:
        self._state = state
        self._key = key
        self._now = now
        self._holder = secrets.token_hex(8)

    def hold(self) -> bool:
        """Takes or prolongs the lease; False if somebody else has it."""
        stored = self._state.get(self._key)
        if stored is not None:
            held = json.loads(stored)
            if held["holder"] != self._holder and held["until"] > self._now():
                return False
        mine = {"holder": self._holder, "until": self._now() + LEASE_S}
        return self._state.swap(self._key, stored, json.dumps(mine).encode())

    def release(self) -> None:
        """Gives it back, if it is held here."""
        stored = self._state.get(self._key)
        if stored is not None and json.loads(stored)["holder"] == self._holder:
            self._state.delete(self._key)


class Labeller:
    """Has spooled rows labelled by the teacher, with less priority than a waiting user."""

    def __init__(
        self, log: EscalationLog, teacher: Teacher, labelling: Labelling, observer: Observer
    ) -> None:
        self._log = log
        self._observer = observer
        self._teacher = teacher
        self._labelling = labelling
        self._cursor = 0
        self._failed: Counter[int] = Counter()

    async def step(self, labels: Callable[[str], tuple[str, ...]]) -> bool:
        """Labels a few rows; tells whether more wait, and the teacher is up to them.

        Args:
            labels: Gives the labels of a task by its name.
        """
        if self._labelling is Labelling.NONE:
            return False
        page = await asyncio.to_thread(self._log.unlabelled, _LABEL_ROWS, self._cursor)
        self._cursor = page[-1].sequence if len(page) == _LABEL_ROWS else 0
        rows = [row for row in page if self._wants(row)]
        if not rows:
            return self._cursor > 0
        requests = [
            ScoreRequest(
                text=row.record.text, labels=labels(row.record.task), priority=_IDLE_PRIORITY
            )
            for row in rows
        ]
        done = await self._attach(rows, await self._teacher.score_labels(requests))
        return done > 0 and self._cursor > 0

    def _wants(self, row: LoggedRow) -> bool:
        if self._failed[row.sequence] >= _MAX_ATTEMPTS:
            return False
        return self._labelling is Labelling.ALL or row.record.coin

    async def _attach(
        self, rows: Sequence[LoggedRow], outcomes: Sequence[TeacherLabel | UnderstudyError]
    ) -> int:
        done = 0
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, UnderstudyError):
                # Only what the input itself brings on counts against it; an outage passes.
                self._failed[row.sequence] += int(not outcome.retryable)
                continue
            self._observer.answered(row.record.task, "label")
            await asyncio.to_thread(self._log.attach, row.sequence, outcome)
            self._failed.pop(row.sequence, None)
            done += 1
        return done


class Duties:
    """One turn of everything that only one process may do."""

    def __init__(
        self,
        *,
        log: EscalationLog,
        state: SharedState,
        watch: ContractWatch,
        labeller: Labeller,
        labels: Callable[[str], tuple[str, ...]],
        retention_s: float,
        now: Callable[[], float],
    ) -> None:
        self._log = log
        self._lease = Lease(state, _LEASE, now)
        self._watch = watch
        self._labeller = labeller
        self._labels = labels
        self._retention_s = retention_s
        self._now = now
        self._trimmed_unix_s = 0.0
        self._leading = False

    async def turn(self) -> None:
        """Does what is due, if the lease is held here."""
        leading = await asyncio.to_thread(self._lease.hold)
        if not leading or not self._leading:
            self._watch.forget()
        self._leading = leading
        if not leading:
            return
        # Both catch up with a busy log, but only for as long as the lease surely lasts.
        now = self._now()
        await self._label(now + LEASE_S / 4)
        await self._watch_all(now + LEASE_S / 2)
        await self._trim()

    async def close(self) -> None:
        """Hands the lease on."""
        await asyncio.to_thread(self._lease.release)

    async def _label(self, until_unix_s: float) -> None:
        try:
            while await self._labeller.step(self._labels) and self._now() < until_unix_s:
                continue
        except UnderstudyError as error:
            _log.info("the teacher labels nothing for now: %s", error)

    async def _watch_all(self, until_unix_s: float) -> None:
        while await asyncio.to_thread(self._watch.step) and self._now() < until_unix_s:
            continue

    async def _trim(self) -> None:
        now = self._now()
        if now - self._trimmed_unix_s >= _TRIM_EVERY_S:
            self._trimmed_unix_s = now
            await asyncio.to_thread(self._log.trim, now - self._retention_s)
