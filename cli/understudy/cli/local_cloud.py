"""The cloud without a network: teacher and log in this process, behind the ports the client knows.

Same rules as the gateway: a label is in the log before it is given, an event id is answered once
and logged once, an audit is labelled when it is reported. A budget of calls is never exceeded: what
comes after the last call is refused, as by a node's quota.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from understudy.cloud.log import EscalationLog, NewRow
from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.edge.ports import Outcome, Receipt, ReceiptOutcome
from understudy.types.decision import RecordKind
from understudy.types.errors import DeadlineError, OverloadedError, UnderstudyError
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus

T = TypeVar("T")
NODE = "local"
CALM = Directive(next_check_in_s=1e8)
SPENT = "the budget of teacher calls is spent"


class LoopThread:
    """One event loop on one thread, for engines that want to live on one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Runs a coroutine to its end.

        Raises:
            DeadlineError: If it takes longer than `timeout_s`.
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            future.cancel()
            raise DeadlineError(f"no answer within {timeout_s:g} s") from error

    @property
    def closed(self) -> bool:
        """True once nothing can be run any more."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Ends loop and thread; safe to repeat."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Allowance:
    """Calls that may still be made; thread-safe.

    Args:
        calls: How many in all; None for no limit.
    """

    def __init__(self, calls: int | None) -> None:
        self._lock = threading.Lock()
        self._left = calls

    def take(self, wanted: int) -> int:
        """Takes as many calls as are left, up to `wanted`."""
        with self._lock:
            if self._left is None:
                return wanted
            taken = min(wanted, self._left)
            self._left -= taken
            return taken


class LocalCloud:
    """Teacher, feedback and fleet in one object; thread-safe.

    Args:
        teacher: Who is asked.
        log: Where it is written down; belongs to who opened it.
        calls: How many texts the teacher may be asked about; None for any number.
    """

    def __init__(
        self, teacher: TeacherEngine, log: EscalationLog, calls: int | None = None
    ) -> None:
        self.allowance = Allowance(calls)
        self.teacher = teacher
        self.log = log
        self._loop = LoopThread()

    def start(self, timeout_s: float = 600.0) -> None:
        """Loads the teacher.

        Raises:
            ConfigError: If a person must edit its configuration.
        """
        self._loop.call(self.teacher.start(), timeout_s)

    def close(self) -> None:
        """Stops the teacher; safe to repeat. The log belongs to who opened it."""
        if not self._loop.closed:
            self._loop.call(self.teacher.stop(), 60.0)
            self._loop.close()

    def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        """Asks the teacher, logs, answers.

        Raises:
            UnderstudyError: If the teacher has no answer.
        """
        outcome = self.predict_batch([record], timeout_s, traceparent=traceparent)[0]
        if isinstance(outcome, UnderstudyError):
            raise outcome
        return outcome

    def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        """Asks about each record that was not answered before; same order."""
        del traceparent
        known = {r.event_id: self._answered(r) for r in records}
        new = [r for r in records if known[r.event_id] is None]
        fresh = dict(zip((r.event_id for r in new), self.label_texts(new, timeout_s), strict=True))
        rows = [
            NewRow(r, label if isinstance(label, TeacherLabel) else None)
            for r, label in ((r, fresh[r.event_id]) for r in new)
        ]
        self.log.append(rows)
        return [known[r.event_id] or fresh[r.event_id] for r in records]

    def report(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Receipt]:
        """Stores what the edge answered alone; audits get their label at once."""
        audits = [r for r in records if r.kind is RecordKind.AUDIT]
        self.predict_batch(audits, timeout_s)
        self.log.append([NewRow(r) for r in records if r.kind is not RecordKind.AUDIT])
        return [Receipt(r.event_id, ReceiptOutcome.STORED) for r in records]

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        """Answers the client's own thread once; who plays the stream checks in by requests."""
        del status, timeout_s
        return CALM

    def label_texts(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Outcome]:
        """The teacher's word on each text, off the record but within the allowance."""
        return self.ask([r.text for r in records], timeout_s)

    def ask(self, texts: Sequence[str], timeout_s: float = 600.0) -> list[Outcome]:
        """The teacher's word on texts as far as the allowance goes, nothing logged."""
        asked = self.allowance.take(len(texts))
        refused = [OverloadedError(SPENT, retry_after_s=1.0) for _ in texts[asked:]]
        return [*self.score(texts[:asked], timeout_s), *refused]

    def score(
        self, texts: Sequence[str], timeout_s: float = 600.0, labels: tuple[str, ...] = ()
    ) -> list[Outcome]:
        """The teacher's word on texts for the report's sake: not logged, not counted."""
        if not texts:
            return []
        requests = [ScoreRequest(text=text, labels=labels) for text in texts]
        return self._loop.call(self.teacher.score_labels(requests), timeout_s)

    @property
    def id(self) -> str:
        """The teacher's id, for the night."""
        return self.teacher.info().id

    def label(self, texts: Sequence[str], labels: tuple[str, ...]) -> list[TeacherLabel | None]:
        """The teacher's word for a night, within the allowance; None where it could not say."""
        asked = self.allowance.take(len(texts))
        found = self.score(texts[:asked], labels=labels)
        said = [label if isinstance(label, TeacherLabel) else None for label in found]
        return [*said, *[None] * (len(texts) - asked)]

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Continuations for a night, within the allowance; none if the teacher cannot write."""
        if not self.teacher.info().generates:
            return []
        prompts = prompts[: self.allowance.take(len(prompts))]
        requests = [GenerateRequest(prompt=prompt, temperature=0.9) for prompt in prompts]
        found = self._loop.call(self.teacher.generate(requests), 600.0) if requests else []
        return ["" if isinstance(answer, UnderstudyError) else answer.text for answer in found]

    def _answered(self, record: EscalationRecord) -> TeacherLabel | None:
        row = self.log.find(record.event_id, record.node)
        return row.teacher if row else None
