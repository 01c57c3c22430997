"""The thread that talks to disk and cloud on behalf of requests: `understudy.uploader`.

A request only puts something into a bounded queue in memory. This thread moves records to the
spool, reports them, and asks the teacher in the background. It is the only one that touches the
spool file, and it never raises.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from typing import NamedTuple

from understudy.edge.circuit import Circuit
from understudy.edge.ports import Cloud, Outcome, Question, ReceiptOutcome
from understudy.edge.spool import Spool
from understudy.edge.spool_value import AUDIT, value_of
from understudy.edge.telemetry import LOG, Fault, Telemetry
from understudy.types.errors import (
    AccessError,
    InvalidValueError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord

BATCH_ROWS = 256
BATCH_BYTES = 1 << 20
REPORT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 900.0
ACCESS_PAUSE_S = 60.0
RETRY_ROW_S = 30.0
POISON_PAUSE_S = 3600.0
POISON_TRIES = 3
TIDY_S = 3600.0
IDLE_S = 60.0
GATHER_S = 0.02
"""How long the first record waits for others before both go to the disk.

A thread that woke for every record would take the interpreter from requests, and commit each alone.
"""


class Uploader:
    """Queue, spool and pace; `step` runs in the worker thread, everything else in any.

    Args:
        spool: Where records wait.
        cloud: Gives the link, or None while there is none.
        circuit: Shared with the requests: an open circuit holds reports back too.
        telemetry: Counters.
        queue_rows: Most records in memory on their way to the disk.
    """

    def __init__(
        self,
        spool: Spool,
        cloud: Callable[[], Cloud | None],
        circuit: Circuit,
        telemetry: Telemetry,
        queue_rows: int,
    ) -> None:
        self.spool = spool
        self._cloud, self._circuit, self._telemetry = cloud, circuit, telemetry
        self._queue_rows = queue_rows
        self._records: deque[_Kept] = deque()
        self._questions: deque[Question] = deque()
        self._jobs: deque[Callable[[], None]] = deque()
        self._pace = _Pace()
        self._tidied = float("-inf")  # at the first step: a process may live for minutes only
        self._moved = False
        self._reset_locks()

    def put(self, record: EscalationRecord) -> None:
        """Takes a record for later; memory only, so that a request never waits for a disk."""
        kept = _Kept(value_of(record), record)
        with self._lock:
            self._records.append(kept)
            lost = self._give_one_up() if len(self._records) > self._queue_rows else None
            crowded = len(self._records) > self._queue_rows // 2
        if lost is not None:
            self._telemetry.fault(Fault.QUEUE)
            self._count_lost_audits([lost])
        if crowded:
            self._now.set()
        self._wake.set()

    def ask(self, question: Question) -> bool:
        """Takes a question for the background; False when too many wait already."""
        with self._lock:
            if len(self._questions) >= self._queue_rows:
                return False
            self._questions.append(question)
        self.wake()
        return True

    def later(self, job: Callable[[], None]) -> None:
        """Takes a piece of work that may be dropped."""
        with self._lock:
            if len(self._jobs) < self._queue_rows:
                self._jobs.append(job)
        self._wake.set()

    def waiting(self) -> int:
        """Records that are neither with the cloud nor given up."""
        with self._lock:
            queued = len(self._records) + len(self._questions)
        return queued + self.spool.stats().rows

    def hurry(self) -> None:
        """Tries again at once, whatever the pause."""
        self._pace.hurry()
        self.wake()

    def wait(self, stopping: threading.Event) -> None:
        """Sleeps until there is something to do; in the worker thread."""
        if stopping.is_set():
            return
        self._wake.wait(self._idle_s())
        self._wake.clear()
        if not self._moved:
            self._now.wait(GATHER_S)
        self._now.clear()

    def wake(self) -> None:
        """Ends the sleep of the worker thread at once."""
        self._now.set()
        self._wake.set()

    def step(self) -> None:
        """Moves everything one step on: memory to disk, questions to the teacher, disk to cloud."""
        self._store()
        self._ask_teacher()
        self._moved = self._report()
        self._run_jobs()
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            self.spool.expire()
        with self._idle:
            self._idle.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Waits until nothing waits; False when the time is over before."""
        end = time.monotonic() + timeout_s
        with self._idle:
            while self.waiting():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                # Woken by each step; the bound only guards against a thread that has died.
                self._idle.wait(min(left, 0.2))
        return True

    def store(self) -> None:
        """Moves what memory holds to the spool: questions without an answer, too."""
        with self._lock:
            questions, self._questions = list(self._questions), deque()
        for question in questions:
            question.done(TeacherError("the client was closed first"))
        self._store()

    def forget(self, subject: str) -> int:
        """Deletes every record about a subject that has not left yet; returns how many."""
        with self._lock:
            kept = deque(k for k in self._records if k.record.subject != subject)
            gone = len(self._records) - len(kept)
            self._records = kept
        return gone + self.spool.forget(subject)

    def after_fork(self) -> None:
        """In a forked child: what waits in memory is the parent's to send."""
        self._reset_locks()
        self._records.clear()
        self._questions.clear()
        self._jobs.clear()
        self.spool.after_fork()

    def _reset_locks(self) -> None:
        self._lock = threading.Lock()
        self._wake, self._now = threading.Event(), threading.Event()
        self._idle = threading.Condition()

    def _store(self) -> None:
        with self._lock:
            records = [kept.record for kept in self._records]
        if not records:
            return
        self.spool.put(records)
        with self._lock:
            # Only now, so that `waiting` never misses one; others may have been added or lost.
            stored = {record.event_id for record in records}
            self._records = deque(k for k in self._records if k.record.event_id not in stored)

    def _give_one_up(self) -> EscalationRecord:
        """Takes the least valuable record out of the queue, of equals the oldest."""
        values = [kept.value for kept in self._records]
        place = values.index(min(values))
        lost = self._records[place].record
        del self._records[place]
        return lost

    def _count_lost_audits(self, lost: Iterable[EscalationRecord]) -> None:
        audits = sum(value_of(record) == AUDIT for record in lost)
        if audits:
            self._telemetry.fault(Fault.AUDIT_LOST, audits)

    def _ask_teacher(self) -> None:
        with self._lock:
            batch = list(islice(self._questions, BATCH_ROWS // 4))
        if not batch:
            return
        # A call has one trace: questions of other requests wait for the next call.
        trace = batch[0].traceparent
        batch = list(takewhile(lambda question: question.traceparent == trace, batch))
        for question, outcome in zip(batch, self._outcomes(batch), strict=True):
            question.done(outcome)
        asked = {id(question) for question in batch}
        with self._lock:
            # By identity: a close may have given up the whole queue meanwhile.
            self._questions = deque(q for q in self._questions if id(q) not in asked)
        self.wake()

    def _outcomes(self, batch: Sequence[Question]) -> Sequence[Outcome]:
        cloud = self._cloud()
        if cloud is None:
            return [TeacherError("there is no cloud")] * len(batch)
        try:
            records = [question.record for question in batch]
            trace = batch[0].traceparent
            outcomes = cloud.predict_batch(records, REPORT_TIMEOUT_S, traceparent=trace)
        except UnderstudyError as error:
            self._circuit.failed(error)
            return [error] * len(batch)
        return outcomes

    def _report(self) -> bool:
        """Sends one batch; True if there was something to send."""
        cloud = self._cloud()
        if cloud is None or not self._pace.due() or self._circuit.refused:
            return False
        batch = self.spool.take(self._pace.rows, BATCH_BYTES)
        if not batch:
            return False
        try:
            receipts = cloud.report(batch, REPORT_TIMEOUT_S)
        except UnderstudyError as error:
            self._after_failure(batch, error)
            return True
        outcome = {receipt.event_id: receipt.outcome for receipt in receipts}
        settled = [r.event_id for r in batch if _is_settled(outcome.get(r.event_id))]
        put_off = [r.event_id for r in batch if not _is_settled(outcome.get(r.event_id))]
        self.spool.settle(settled)
        self.spool.put_off(put_off, RETRY_ROW_S)
        self._refused([r for r in batch if outcome.get(r.event_id) is ReceiptOutcome.REFUSED])
        self._pace.went_well()
        return True

    def _after_failure(self, batch: Sequence[EscalationRecord], error: UnderstudyError) -> None:
        """The records stay; one that fails alone again and again must not hold up the others."""
        self._telemetry.fault(Fault.REPORT)
        LOG.info("understudy edge: %d records stay, %s", len(batch), type(error).__name__)
        if isinstance(error, AccessError):
            self._circuit.failed(error)
        if not self._pace.failed(error, len(batch)):
            return
        keys = [record.event_id for record in batch]
        if isinstance(error, InvalidValueError):
            self.spool.settle(keys)
            self._refused(batch)
        else:
            self.spool.put_off(keys, POISON_PAUSE_S)

    def _refused(self, records: Sequence[EscalationRecord]) -> None:
        if records:
            self._telemetry.fault(Fault.REFUSED, len(records))
            self._count_lost_audits(records)

    def _run_jobs(self) -> None:
        with self._lock:
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            job()

    def _idle_s(self) -> float:
        """How long there is nothing to do: rows may be put off, paused, or without a cloud."""
        if not self.spool.stats().rows:
            return IDLE_S
        pause = self._pace.due_in_s()
        return min(IDLE_S, pause if pause > 0 or self._moved else RETRY_ROW_S)


class _Kept(NamedTuple):
    """A record on its way to the disk, with what it is worth."""

    value: int
    record: EscalationRecord


class _Pace:
    """When to report next and how much: back-off with full jitter, and bisection of bad batches."""

    def __init__(self) -> None:
        self.rows = BATCH_ROWS
        self._failures = 0
        self._poison_tries = 0
        self._due = 0.0

    def due(self) -> bool:
        return self.due_in_s() <= 0

    def due_in_s(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def hurry(self) -> None:
        self._due = 0.0

    def went_well(self) -> None:
        self._failures = self._poison_tries = 0
        self._due = 0.0
        self.rows = min(BATCH_ROWS, self.rows * 2)

    def failed(self, error: UnderstudyError, rows: int) -> bool:
        """Notes a failure; True when a single record has failed for good."""
        self._failures += 1
        self._due = time.monotonic() + self._pause_s(error)
        if not isinstance(error, InvalidValueError | TeacherError):
            return False
        if rows > 1:
            self.rows = max(1, rows // 2)
            return False
        self._poison_tries += 1
        if self._poison_tries < POISON_TRIES:
            return False
        self._poison_tries = 0
        return True

    def _pause_s(self, error: UnderstudyError) -> float:
        if isinstance(error, OverloadedError) and error.retry_after_s > 0:
            return error.retry_after_s
        if isinstance(error, AccessError):
            return ACCESS_PAUSE_S
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 20))
        return random.uniform(0, longest)  # noqa: S311 - spreads a fleet, guards nothing


def _is_settled(outcome: ReceiptOutcome | None) -> bool:
    return outcome in {ReceiptOutcome.STORED, ReceiptOutcome.REFUSED}
