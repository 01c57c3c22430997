"""What both clients do with a request, apart from waiting: student, decision, answer.

A request becomes an `Ask` (the student has answered, the policy has decided), and an ask becomes an
answer in one of three ways: kept, accepted from the teacher, degraded. How the teacher is reached,
blocking or awaiting, is the clients' business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from understudy.edge.cache import TeacherCache
from understudy.edge.circuit import Circuit, reason_of
from understudy.edge.config import EdgeConfig, Mode
from understudy.edge.events import Event, EventKind, Events
from understudy.edge.ids import new_request_id
from understudy.edge.loaded import Loaded
from understudy.edge.margin import Margin
from understudy.edge.options import Request
from understudy.edge.ports import Outcome, Question
from understudy.edge.privacy import Outbox
from understudy.edge.purse import Purse
from understudy.edge.student import Reading
from understudy.edge.telemetry import Fault, Telemetry
from understudy.edge.text import readable
from understudy.router.policy import INVALID
from understudy.router.score import Judged, judge
from understudy.types.answer import Answer, Source
from understudy.types.decision import Action, Decision, Reason, RecordKind
from understudy.types.errors import BundleError, OverloadedError, UnderstudyError
from understudy.types.records import EscalationRecord, LabelScore, TeacherLabel

TOP = 5
_UNUSABLE = Judged(INVALID)
_LEAST_CALL_S = 0.002
"""With less time left a call to the cloud cannot come back."""


@dataclass(slots=True)
class Ask:
    """One request after student and policy.

    `label` is the student's answer; the first label, without `scores`, when its numbers were
    unusable. `record` is what may leave, once it was cleared.
    """

    request_id: str
    text: str
    started: float
    ends: float
    request: Request
    loaded: Loaded
    decision: Decision
    confidence: float
    label: str
    scores: Mapping[str, float]
    truncated: bool = False
    student_ms: float = 0.0
    failed: bool = False
    record: EscalationRecord | None = None

    @property
    def top(self) -> tuple[LabelScore, ...]:
        """The student's best labels, best first."""
        return tuple(LabelScore(label, share) for label, share in self.scores.items())

    def time_left_s(self) -> float:
        """Seconds until the budget is spent."""
        return self.ends - time.perf_counter()


@dataclass(frozen=True)
class Engine:
    """The parts of one client that decide; the reference to the student is read from `current`.

    Attributes:
        config: As read.
        current: Gives the student in use.
        telemetry: Counters.
        circuit: When to leave the cloud alone.
        cache: Teacher's answers to the very same text.
        outbox: What may leave the process.
        purse: The budget of teacher calls.
        events: The product's listeners.
        spool: Takes a record for later; never blocks, never raises.
        background: Takes a question to ask behind the answer; False when too many wait.
        shadow: Told every teacher's label, for the champion in the shadow of a new student.
        has_cloud: False when no cloud is configured.
        margin: What is kept back of a budget for the way home.
    """

    config: EdgeConfig
    current: Callable[[], Loaded]
    telemetry: Telemetry
    circuit: Circuit
    cache: TeacherCache
    outbox: Outbox
    purse: Purse
    events: Events
    spool: Callable[[EscalationRecord], None]
    background: Callable[[Question], bool]
    shadow: Callable[[Ask, TeacherLabel], None]
    has_cloud: bool
    margin: Margin = field(default_factory=Margin)

    def ask(self, text: str, request: Request) -> Ask:
        """Lets the student answer one text and the policy decide on it; the hot path.

        Raises:
            InvalidValueError: If the text is no `str`.
        """
        started = time.perf_counter()
        clean, loaded = readable(text), self.current()
        try:
            reading = loaded.student.read(clean)
        except BundleError:
            self.telemetry.fault(Fault.STUDENT)
            reading = None
        ask = self._decide(loaded, clean, request, reading, started)
        ask.truncated = ask.truncated or len(text) > len(clean)
        ask.student_ms = _ms_since(started)
        return ask

    def ask_many(self, texts: Sequence[str], request: Request) -> list[Ask]:
        """As `ask`, all texts in one run of the student.

        Raises:
            InvalidValueError: If a text is no `str`.
        """
        started = time.perf_counter()
        clean, loaded = [readable(text) for text in texts], self.current()
        readings: Sequence[Reading | None]
        try:
            readings = loaded.student.read_many(clean)
        except BundleError:
            self.telemetry.fault(Fault.STUDENT, len(texts))
            readings = [None] * len(texts)
        asks = [
            self._decide(loaded, text, request, reading, started)
            for text, reading in zip(clean, readings, strict=True)
        ]
        student_ms = _ms_since(started) / max(1, len(asks))
        for given, ask in zip(texts, asks, strict=True):
            ask.truncated = ask.truncated or len(given) > len(ask.text)
            ask.student_ms = student_ms
        return asks

    def answer_alone(self, ask: Ask) -> Answer | None:
        """The answer where the teacher is not needed or not to be had; None to ask it now."""
        if not ask.text.strip():
            return self._answer(ask, reason=Reason.EMPTY_INPUT, degraded=True)
        if ask.decision.action is Action.KEEP:
            return self._keep(ask)
        forbidden = self._forbidden(ask)
        if forbidden is not None:
            return self._degrade(ask, forbidden)
        manifest = ask.loaded.bundle.manifest
        known = self.cache.find(ask.text, manifest.task, ask.loaded.bundle.id)
        if known is not None:
            return self._reuse(ask, known)
        return self._answer_first(ask) if ask.request.mode is Mode.ANSWER_FIRST else None

    def obstacle(self, ask: Ask) -> Reason | None:
        """Why the cloud must not be called now; None when it may be."""
        if ask.time_left_s() < _LEAST_CALL_S:
            return Reason.DEADLINE
        return self.circuit.obstacle()

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Tells the circuit how a call went; one of many failing is the teacher's affair."""
        errors = [outcome for outcome in outcomes if isinstance(outcome, UnderstudyError)]
        if len(errors) < len(outcomes):
            self.circuit.succeeded()
        else:
            was_refused = self.circuit.refused
            self.circuit.failed(errors[0])
            if self.circuit.refused and not was_refused:
                bundle = self.current().bundle.id
                self.events.emit(Event(EventKind.ACCESS_DENIED, bundle=bundle))

    def settle(self, ask: Ask, outcome: Outcome | Reason) -> Answer:
        """The answer once the teacher was asked, or could not be."""
        if isinstance(outcome, TeacherLabel):
            self._note_label(ask, outcome)
            return self._from_teacher(ask, outcome, Source.TEACHER, ask.decision.reason)
        return self._degrade(ask, outcome if isinstance(outcome, Reason) else reason_of(outcome))

    def _forbidden(self, ask: Ask) -> Reason | None:
        """Why the text must not be shown to the teacher; else `ask.record` is what may leave."""
        if ask.request.mode is Mode.EDGE_ONLY or not self.has_cloud:
            return Reason.EDGE_ONLY
        if not self._is_private(ask):
            ask.record = self._cleared(ask, RecordKind.ESCALATION)
        return Reason.PRIVATE if ask.record is None else None

    def _keep(self, ask: Ask) -> Answer:
        decision = ask.decision
        self.purse.spend(spent=decision.audit)
        if decision.audit:
            self._report(ask, RecordKind.AUDIT)
        return self._answer(
            ask,
            reason=decision.reason,
            degraded=decision.reason is Reason.NO_BUDGET,
            certified=decision.certified and time.time() < ask.loaded.expires_unix_s,
        )

    def _reuse(self, ask: Ask, label: TeacherLabel) -> Answer:
        """From the cache; the audit coin counts all the same."""
        self.purse.spend(spent=ask.decision.audit)
        if ask.decision.audit:
            self._report(ask, RecordKind.AUDIT)
        return self._from_teacher(ask, label, Source.CACHE, Reason.CACHED)

    def _degrade(self, ask: Ask, reason: Reason) -> Answer:
        """The student's answer where the teacher's was wanted; its record is sent later."""
        self.purse.spend(spent=False)
        self._report(ask, RecordKind.DEGRADED)
        return self._answer(ask, reason=reason, degraded=True)

    def _answer_first(self, ask: Ask) -> Answer:
        """The student's answer for now, and the teacher's when it comes."""
        answer = self._answer(ask, reason=Reason.ANSWER_FIRST, degraded=True)
        assert ask.record is not None  # noqa: S101 - cleared by the caller

        def done(outcome: Outcome) -> None:
            if not isinstance(outcome, TeacherLabel):
                self.purse.spend(spent=False)
                self._report(ask, RecordKind.DEGRADED)
                return
            self._note_label(ask, outcome)
            better = self._from_teacher(
                ask, outcome, Source.TEACHER, ask.decision.reason, again=True
            )
            event = Event(EventKind.CORRECTION, answer.bundle, better, answer)
            self.events.emit(event, ask.request.on_correction)

        if not self.background(Question(ask.record, ask.request.traceparent, done)):
            done(OverloadedError("too many questions wait already"))
        return answer

    def _note_label(self, ask: Ask, label: TeacherLabel) -> None:
        """What follows from a teacher's answer beside the answer."""
        self.purse.spend(spent=True)
        manifest = ask.loaded.bundle.manifest
        self.cache.keep(ask.text, manifest.task, ask.loaded.bundle.id, label)
        if ask.decision.audit:
            ask.loaded.record.compared(agreed=label.label == ask.label)
        self.shadow(ask, label)

    def _decide(
        self, loaded: Loaded, text: str, request: Request, reading: Reading | None, started: float
    ) -> Ask:
        """Judges and decides; a student that failed is as good as one that knows nothing."""
        labels, judged = loaded.student.labels, _UNUSABLE
        if reading is not None:
            judged = judge(
                reading.logits, reading.similarity, loaded.calibration,
                classes=len(labels), top=TOP,
            )  # fmt: skip
        request_id = new_request_id()
        decision = loaded.policy.decide(
            judged.score,
            request_id,
            slice_name=request.slice_name,
            budget_threshold=self.purse.threshold,
        )
        # Numbers that cannot be used have confidence 0 already; foreign input is as doubtful.
        self.purse.see(0.0 if judged.score.foreign else judged.score.confidence)
        best = [labels[place] for place in judged.best]
        return Ask(
            request_id, text, started, started + request.deadline_ms / 1000, request, loaded,
            decision, judged.score.confidence, best[0] if best else labels[0],
            dict(zip(best, judged.shares, strict=True)),
            truncated=reading is not None and reading.truncated, failed=reading is None,
        )  # fmt: skip

    def _is_private(self, ask: Ask) -> bool:
        return ask.request.never_escalate or not self.config.privacy.send_text

    def _report(self, ask: Ask, kind: RecordKind) -> None:
        """Keeps a record for later; nothing without a cloud, nothing of what must not leave."""
        if not self.has_cloud or self._is_private(ask):
            return
        record = ask.record if ask.record is not None else self._cleared(ask, kind)
        if record is not None:
            self.spool(record if record.kind is kind else replace(record, kind=kind))

    def _cleared(self, ask: Ask, kind: RecordKind) -> EscalationRecord | None:
        decision, policy = ask.decision, ask.loaded.policy
        record = EscalationRecord(
            event_id=ask.request_id,
            task=self.config.task or ask.loaded.bundle.manifest.task,
            bundle=ask.loaded.bundle.id,
            text=ask.text,
            top=ask.top,
            confidence=ask.confidence,
            threshold=decision.threshold,
            kind=kind,
            coin=decision.audit,
            audit_rate=policy.audit_rate,
            propensity=decision.propensity,
            created_unix_s=time.time(),
            subject=ask.request.subject,
            slice_name=ask.request.slice_name,
        )
        cleared = self.outbox.clear(record)
        if cleared is None:
            self.telemetry.fault(Fault.PRIVATE)
        return cleared

    def _from_teacher(
        self,
        ask: Ask,
        label: TeacherLabel,
        source: Source,
        reason: Reason,
        *,
        again: bool = False,
    ) -> Answer:
        policy = ask.loaded.policy
        best = zip(label.labels[:TOP], np.exp(label.log_probs[:TOP]).tolist(), strict=True)
        return self._answer(
            ask,
            label=label.label,
            source=source,
            reason=reason,
            # The contract bounds what is lost against the teacher, and here nothing is lost.
            certified=policy.covers(ask.request.slice_name),
            scores=dict(best),
            again=again,
        )

    def _answer(  # noqa: PLR0913 - the fields of an answer
        self,
        ask: Ask,
        *,
        reason: Reason,
        label: str | None = None,
        source: Source = Source.STUDENT,
        certified: bool = False,
        degraded: bool = False,
        scores: dict[str, float] | None = None,
        again: bool = False,
    ) -> Answer:
        answer = Answer(
            label=ask.label if label is None else label,
            confidence=ask.confidence,
            source=source,
            certified=certified,
            degraded=degraded,
            reason=reason,
            bundle=ask.loaded.bundle.id,
            latency_ms=_ms_since(ask.started),
            scores=ask.scores if scores is None else scores,
            request_id=ask.request_id,
            truncated=ask.truncated,
        )
        if again:
            return answer
        self.telemetry.answered(answer, audit=ask.decision.audit, student_ms=ask.student_ms)
        ask.loaded.record.answered(
            ask.student_ms,
            error=ask.failed,
            invalid=not ask.scores,
            escalated=ask.decision.action is Action.ESCALATE,
        )
        return answer


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
