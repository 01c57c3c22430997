"""What a client counts, by reason; exporters read it, nothing is pushed from a request.

Labels are closed sets of words, so that no input and no id can ever become one.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from understudy.types.answer import Answer, Source
from understudy.types.decision import Reason

LOG = logging.getLogger("understudy.edge")
LOG.addHandler(logging.NullHandler())

BOUNDS_MS = (
    0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1000.0, 2500.0,
)  # fmt: skip
"""Upper bounds of the histograms' buckets, milliseconds; one more bucket holds the rest."""


class Fault(StrEnum):
    """What went wrong without an answer suffering from it."""

    STUDENT = "student"
    """The student's graph failed on a text."""
    INTERNAL = "internal"
    """A bug of ours, caught at the border."""
    HOOK = "hook"
    """A listener of the product raised."""
    QUEUE = "queue"
    """A record found no place in memory."""
    SPOOL_FULL = "spool_full"
    """A record left the disk for a more valuable one."""
    AUDIT_LOST = "audit_lost"
    """An audited record was lost; the certificate must count it as missing."""
    SPOOL_OLD = "spool_old"
    """A record grew too old."""
    SPOOL_DISK = "spool_disk"
    """The disk refused."""
    SPOOL_CORRUPT = "spool_corrupt"
    """A spool file was set aside as corrupted."""
    SPOOL_DAMAGED = "spool_damaged"
    """A record could not be read back."""
    REFUSED = "refused"
    """The cloud will never take a record."""
    PRIVATE = "private"
    """A record was held back by `before_send` or by the privacy rules."""
    REPORT = "report"
    """A report did not get through; its records stay."""
    UPDATE = "update"
    """A step of the updater failed."""
    ORDERS = "orders"
    """The cloud's orders could not be kept on disk, or not be read back."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket, one more than `BOUNDS_MS`; total in milliseconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_MS) + 1)
    total_ms: float = 0.0

    def quantile(self, share: float) -> float:
        """Upper bound of the bucket that holds the quantile, milliseconds; 0 without values."""
        wanted, seen = share * sum(self.counts), 0
        for bound, count in zip((*BOUNDS_MS, BOUNDS_MS[-1]), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything counted so far.

    Attributes:
        answers: By source and reason.
        audits: Audit coins that fell.
        faults: What went wrong on the side.
        latency: Of whole calls.
        student: Of the student alone.
        requests: Answers given.
        kept: Of these, the student's, sure of itself.
        escalated: Of these, the teacher's, fresh or from the cache.
        degraded: Of these, the student's although the teacher should have been asked.
    """

    answers: Mapping[tuple[Source, Reason], int] = field(default_factory=dict)
    audits: int = 0
    faults: Mapping[Fault, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    student: Histogram = field(default_factory=Histogram)
    requests: int = 0
    kept: int = 0
    escalated: int = 0
    degraded: int = 0


class Telemetry:
    """The counters of one client; thread-safe, one short lock an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[Source, Reason]] = Counter()
        self._faults: Counter[Fault] = Counter()
        self._latency = [0] * (len(BOUNDS_MS) + 1)
        self._student = [0] * (len(BOUNDS_MS) + 1)
        self._sums = [0.0, 0.0]
        self._audits = self._degraded = 0

    def answered(self, answer: Answer, *, audit: bool, student_ms: float) -> None:
        """Counts one answer."""
        with self._lock:
            self._answers[answer.source, answer.reason] += 1
            self._audits += audit
            self._degraded += answer.degraded
            self._latency[bisect_left(BOUNDS_MS, answer.latency_ms)] += 1
            self._student[bisect_left(BOUNDS_MS, student_ms)] += 1
            self._sums[0] += answer.latency_ms
            self._sums[1] += student_ms

    def fault(self, kind: Fault, count: int = 1) -> None:
        """Counts what went wrong, and logs it the 1st, 10th, 100th time: never in floods."""
        with self._lock:
            before = self._faults[kind]
            self._faults[kind] += count
            after = self._faults[kind]
        if len(str(before)) < len(str(after)) or not before:
            LOG.warning("understudy edge: %s, %d so far", kind.value, after)

    def snapshot(self) -> Snapshot:
        """A copy of everything counted so far."""
        with self._lock:
            answers, faults = dict(self._answers), dict(self._faults)
            latency = Histogram(tuple(self._latency), self._sums[0])
            student = Histogram(tuple(self._student), self._sums[1])
            audits, degraded = self._audits, self._degraded
        requests = sum(answers.values())
        escalated = sum(n for (source, _), n in answers.items() if source is not Source.STUDENT)
        return Snapshot(
            answers=answers,
            audits=audits,
            faults=faults,
            latency=latency,
            student=student,
            requests=requests,
            kept=requests - escalated - degraded,
            escalated=escalated,
            degraded=degraded,
        )

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()
