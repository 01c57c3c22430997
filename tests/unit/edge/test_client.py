"""Rules of the client, with a cloud in this process: what is asked, what is kept, what is said."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simulators.bundles import build_bundle, topic_head
from simulators.edge_gateway import wait_until
from understudy.edge import AsyncEdgeClient, EdgeClient, EdgeConfig, Event, EventKind
from understudy.edge.bundle import Head, encode_head, read_bundle
from understudy.edge.config import (
    AuditConfig,
    CacheConfig,
    ContractConfig,
    PrivacyConfig,
    Redaction,
    SpoolConfig,
)  # fmt: skip
from understudy.edge.ports import Outcome, Receipt, ReceiptOutcome
from understudy.types.answer import Answer, Source
from understudy.types.bundle import HEAD
from understudy.types.contract import OnUncertified
from understudy.types.decision import Reason, RecordKind
from understudy.types.errors import (
    AccessError,
    BundleError,
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)  # fmt: skip
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus

SURE, UNSURE = "the machine swallowed my card", "qqq"
REFUND = TeacherLabel("sim", "hash", ("refund", "card"), (-0.1, -2.4))


class FakeCloud:
    """Our own port, in memory; `error` is what every call raises."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.fleet_error: Exception | None = None
        self.label = REFUND
        self.outcome = ReceiptOutcome.STORED
        self.asked: list[EscalationRecord] = []
        self.reported: list[EscalationRecord] = []
        self.traces: list[str] = []
        self.directive = Directive()
        self.statuses: list[NodeStatus] = []

    def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        return self.predict_batch([record], timeout_s, traceparent=traceparent)[0]  # type: ignore[return-value] # never an error here

    def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        assert timeout_s > 0
        self.asked.extend(records)
        self.traces.append(traceparent)
        if self.error is not None:
            raise self.error
        return [self.label] * len(records)

    def report(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Receipt]:
        assert timeout_s > 0
        if self.error is not None:
            raise self.error
        self.reported.extend(records)
        return [Receipt(r.event_id, self.outcome) for r in records]

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        assert timeout_s > 0
        if self.fleet_error is not None:
            raise self.fleet_error
        self.statuses.append(status)
        return self.directive


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "b"
    build_bundle(directory, prototypes=True)
    return directory


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def opened(bundle: Path, cloud: FakeCloud) -> Iterator[Any]:
    clients: list[EdgeClient] = []

    def make(*, with_cloud: bool = True, before_send: Any = None, **config: Any) -> EdgeClient:
        made = EdgeConfig(bundle=str(config.pop("bundle", bundle)), **config)
        clients.append(
            EdgeClient.open(made, cloud=cloud if with_cloud else None, before_send=before_send)
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_sure_student_answers_alone(opened: Any, cloud: FakeCloud) -> None:
    """This is the point of the product: no call."""
    answer = opened(audit=AuditConfig(rate=1e-9)).predict(SURE)

    assert (answer.label, answer.source, answer.reason) == (
        "card",
        Source.STUDENT,
        Reason.CONFIDENT,
    )
    assert answer.certified
    assert not answer.degraded
    assert cloud.asked == []
    assert answer.scores["card"] == max(answer.scores.values())


def test_an_unsure_student_asks_the_teacher(opened: Any, cloud: FakeCloud) -> None:
    """The record carries what the log needs, and the event id is the answer's."""
    answer = opened().predict(UNSURE, traceparent="00-1-2-01", subject="anna")

    assert (answer.label, answer.source, answer.reason) == ("refund", Source.TEACHER, Reason.UNSURE)
    assert answer.certified
    [record] = cloud.asked
    assert (record.event_id, record.kind, record.propensity) == (
        answer.request_id,
        RecordKind.ESCALATION,
        1.0,
    )
    assert (record.subject, record.text, cloud.traces) == ("anna", UNSURE, ["00-1-2-01"])


FAILURES = [
    (LinkDownError("x"), Reason.LINK_DOWN),
    (DeadlineError("x"), Reason.DEADLINE),
    (OverloadedError("x", 60.0), Reason.OVERLOADED),
    (AccessError("x"), Reason.ACCESS_DENIED),
    (TeacherError("x"), Reason.TEACHER_FAILED),
    (BundleError("x"), Reason.TEACHER_FAILED),
    (RuntimeError("a bug"), Reason.TEACHER_FAILED),
]


@pytest.mark.parametrize(
    ("error", "reason"),
    FAILURES,
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else "",
)
def test_a_cloud_that_fails_is_a_reason_not_an_exception(
    opened: Any, cloud: FakeCloud, error: Exception, reason: Reason
) -> None:
    """A product must never become less reliable by embedding us."""
    client = opened()
    cloud.error = error
    answer = client.predict(UNSURE)
    many = client.predict_many([UNSURE, SURE])

    assert (answer.source, answer.degraded, answer.certified, answer.reason) == (
        Source.STUDENT,
        True,
        False,
        reason,
    )
    assert [a.degraded for a in many] == [True, False]
    assert client.status().spool_rows >= 2


def test_what_could_not_be_asked_is_reported_later(opened: Any, cloud: FakeCloud) -> None:
    """A degraded answer is a lesson for the night all the same."""
    client = opened()
    cloud.error = LinkDownError("away")
    answer = client.predict(UNSURE)
    cloud.error = None

    assert client.flush(5)
    assert [(r.event_id, r.kind) for r in cloud.reported] == [
        (answer.request_id, RecordKind.DEGRADED)
    ]


def test_refused_credentials_open_the_circuit_until_they_change(
    opened: Any, cloud: FakeCloud
) -> None:
    """Asking on only fills the server's log; an operator must act."""
    client = opened()
    heard: list[Event] = []
    client.on_event(heard.append)
    cloud.error = cloud.fleet_error = AccessError("revoked")
    client.predict(UNSURE)
    cloud.error = None

    assert client.predict(UNSURE).reason is Reason.ACCESS_DENIED
    assert client.status().access_denied
    assert [e.kind for e in heard if e.kind is not EventKind.DIRECTED] == [EventKind.ACCESS_DENIED]
    client.runtime.reconnect()
    assert client.predict(UNSURE).source is Source.TEACHER


def test_push_back_is_obeyed(opened: Any, cloud: FakeCloud) -> None:
    """The server said when; until then it is not asked."""
    client = opened()
    cloud.error = OverloadedError("busy", 60.0)
    client.predict(UNSURE)
    cloud.error = None

    assert client.predict(UNSURE).reason is Reason.OVERLOADED
    assert len(cloud.asked) == 1


def test_a_dropped_link_is_tried_once_more(
    opened: Any, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection dies silently behind a router; the first call then fails for nothing."""
    tries: list[str] = []

    def flaky(record: EscalationRecord, timeout_s: float, *, traceparent: str = "") -> TeacherLabel:
        assert (timeout_s > 0, traceparent) == (True, "")
        tries.append(record.event_id)
        if len(tries) == 1:
            raise LinkDownError("idle for an hour")
        return REFUND

    monkeypatch.setattr(cloud, "predict", flaky)

    assert opened().predict(UNSURE).source is Source.TEACHER
    assert len(tries) == 2
    assert len(set(tries)) == 1


@pytest.mark.parametrize(("text", "truncated"), [("", False), ("  \t\n", False), ("\0\0", False)])
def test_nothing_to_read_is_said_and_not_sent(
    opened: Any, cloud: FakeCloud, text: str, *, truncated: bool
) -> None:
    """An empty text teaches nobody anything."""
    client = opened()
    answer = client.predict(text)

    assert (answer.reason, answer.degraded, answer.truncated) == (
        Reason.EMPTY_INPUT,
        True,
        truncated,
    )
    assert client.status().spool_rows == 0
    assert cloud.asked == []


def test_edge_only_never_asks_while_answering(opened: Any, cloud: FakeCloud) -> None:
    """The record still goes to the spool, so that the night learns."""
    client = opened()
    answer = client.predict(UNSURE, mode="edge_only")

    assert (answer.reason, answer.degraded) == (Reason.EDGE_ONLY, True)
    assert cloud.asked == []
    assert client.flush(5)
    assert len(cloud.reported) == 1


def test_a_client_without_a_cloud_keeps_nothing(opened: Any) -> None:
    """A spool that nobody will ever empty must not fill."""
    client = opened(with_cloud=False)

    assert client.predict(UNSURE).reason is Reason.EDGE_ONLY
    assert client.status().spool_rows == 0


@pytest.mark.parametrize("how", ["call", "config"])
def test_a_private_text_never_leaves(opened: Any, cloud: FakeCloud, how: str) -> None:
    """Not as a question, not as an audit, not later."""
    privacy = PrivacyConfig(send_text=how == "call")
    client = opened(audit=AuditConfig(rate=1.0), privacy=privacy)
    options = {"never_escalate": True} if how == "call" else {}

    assert client.predict(UNSURE, **options).reason is Reason.PRIVATE
    assert client.predict(SURE, **options).reason is Reason.CONFIDENT
    assert client.flush(2)
    assert cloud.asked == cloud.reported == []


def test_audits_go_out_with_the_rate_they_were_drawn_with(opened: Any, cloud: FakeCloud) -> None:
    """The night weighs them by it."""
    client = opened(audit=AuditConfig(rate=1.0))
    answer = client.predict(SURE)
    assert client.flush(5)

    [record] = cloud.reported
    assert (record.event_id, record.kind, record.coin) == (
        answer.request_id,
        RecordKind.AUDIT,
        True,
    )
    assert (record.audit_rate, record.propensity) == (1.0, 1.0)
    assert client.status().audits == 1


def test_the_teacher_corrects_what_was_answered_first(opened: Any) -> None:
    """The product shows something at once, and something better a moment later."""
    client = opened(mode="answer_first")
    corrections: list[Event] = []
    answer = client.predict(UNSURE, on_correction=corrections.append)

    assert (answer.source, answer.degraded, answer.reason) == (
        Source.STUDENT,
        True,
        Reason.ANSWER_FIRST,
    )
    wait_until(lambda: bool(corrections))
    [event] = corrections
    assert event.previous == answer
    assert event.answer is not None
    assert (event.answer.label, event.answer.request_id) == ("refund", answer.request_id)
    assert client.status().requests == 1


def test_every_question_in_the_background_keeps_its_trace(opened: Any, cloud: FakeCloud) -> None:
    """A call carries one trace, so questions of different requests do not share one."""
    client = opened(mode="answer_first")
    client.runtime._upload._thread = threading.current_thread()  # all are there before any leaves
    for trace in ("00-1", "00-1", "00-2", ""):
        client.predict(UNSURE, traceparent=trace)
    client.runtime._upload._thread = None
    assert client.flush(5)

    assert cloud.traces == ["00-1", "00-2", ""]
    assert len(cloud.asked) == 4


def test_a_correction_that_cannot_be_had_is_reported_later(opened: Any, cloud: FakeCloud) -> None:
    """The lesson is not lost with the answer."""
    client = opened(mode="answer_first")
    cloud.error = TeacherError("broken")
    client.predict(UNSURE)
    wait_until(lambda: bool(cloud.asked))
    cloud.error = None
    assert client.flush(5)

    assert [r.kind for r in cloud.reported] == [RecordKind.DEGRADED]


def test_listeners_that_raise_are_counted_and_forgotten(opened: Any, bundle: Path) -> None:
    """A product's bug must not become ours."""
    client = opened()
    stop = client.on_event(lambda event: 1 // event.kind.count(" "))
    client.swap(read_bundle(bundle))
    stop()
    client.swap(read_bundle(bundle))

    assert client.status().faults == {"hook": 1}


def test_the_cache_answers_the_same_text_with_the_teachers_words(
    opened: Any, cloud: FakeCloud
) -> None:
    """Exact texts only; a degraded answer is never kept."""
    client = opened(cache=CacheConfig(entries=10))
    cloud.error = TeacherError("x")
    client.predict(UNSURE)
    cloud.error = None
    first, second = client.predict(UNSURE), client.predict(UNSURE)

    assert (first.source, second.source, second.reason) == (
        Source.TEACHER,
        Source.CACHE,
        Reason.CACHED,
    )
    assert (second.label, second.request_id == first.request_id) == ("refund", False)
    assert len(cloud.asked) == 2


def test_a_cache_hit_does_not_skip_the_audit_coin(opened: Any, cloud: FakeCloud) -> None:
    """Else repeated questions would be missing from the certificate's sample."""
    client = opened(cache=CacheConfig(entries=10), audit=AuditConfig(rate=1.0))
    client.predict(UNSURE)
    client.predict(UNSURE)
    assert client.flush(5)

    assert [r.kind for r in cloud.reported] == [RecordKind.AUDIT]


def test_a_swap_empties_the_cache(opened: Any, cloud: FakeCloud, bundle: Path) -> None:
    """Another student has other doubts."""
    client = opened(cache=CacheConfig(entries=10))
    client.predict(UNSURE)
    client.swap(read_bundle(bundle))
    client.predict(UNSURE)

    assert len(cloud.asked) == 2


def test_what_leaves_was_redacted(opened: Any, cloud: FakeCloud) -> None:
    """The teacher needs the sense, not the address."""
    client = opened(privacy=PrivacyConfig(redaction=Redaction.CONTACTS, hash_subjects=True))
    client.predict("zzz anna@example.org", subject="anna")

    assert cloud.asked[0].text == "zzz [email]"
    assert len(cloud.asked[0].subject) == 32


@pytest.mark.parametrize(
    "hook",
    [lambda _: None, lambda _: 1 / 0, lambda _: "text"],
    ids=["none", "raises", "nonsense"],
)
def test_before_send_fails_closed(opened: Any, cloud: FakeCloud, hook: Any) -> None:
    """When in doubt nothing leaves."""
    client = opened(before_send=hook, audit=AuditConfig(rate=1.0))

    assert client.predict(UNSURE).reason is Reason.PRIVATE
    client.predict(SURE)
    assert client.flush(2)
    assert cloud.asked == cloud.reported == []


def test_a_client_learns_how_long_the_way_home_takes(bundle: Path) -> None:
    """A call that came back late leaves earlier the next time, so that budgets hold."""

    class LateCloud(FakeCloud):
        def predict_batch(
            self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
        ) -> list[Outcome]:
            threading.Event().wait(timeout_s + 0.02)
            return super().predict_batch(records, timeout_s, traceparent=traceparent)

    late = LateCloud()
    late.error = DeadlineError("too late")
    with EdgeClient.open(EdgeConfig(bundle=str(bundle), deadline_ms=1000), cloud=late) as client:
        assert client.predict(UNSURE).reason is Reason.DEADLINE
        assert client.runtime.engine.margin.of(1.0) > 0.02


def test_before_send_cannot_touch_what_the_statistics_rest_on(
    opened: Any, cloud: FakeCloud
) -> None:
    """A record with another coin or id would spoil the certificate, or be logged twice."""
    client = opened(
        before_send=lambda r: replace(r, text="x", event_id="e", coin=True, propensity=0.5)
    )
    answer = client.predict(UNSURE)

    [record] = cloud.asked
    assert (record.text, record.event_id) == ("x", answer.request_id)
    assert (record.coin, record.propensity) == (False, 1.0)


@pytest.mark.parametrize("odd", ["\ud800", "a\0b", "\U0010ffff"])
def test_odd_text_around_a_request_reaches_disk_and_cloud(
    opened: Any, cloud: FakeCloud, tmp_path: Path, odd: str
) -> None:
    """One record that cannot be written or sent must not hold up all that come after it."""
    client = opened(state_dir=str(tmp_path), before_send=lambda r: replace(r, text=r.text + odd))
    cloud.error = LinkDownError("away")
    client.predict("qqq" + odd, subject=odd, slice_name=odd, traceparent=odd)
    client.predict(UNSURE, subject="anna")
    wait_until(lambda: client.runtime.uploader.spool.stats().rows == 2)

    assert client.forget(odd) == 1
    cloud.error = None
    assert client.flush(5)
    assert [r.subject for r in cloud.reported] == ["anna"]
    assert "internal" not in client.status().faults


def test_before_send_may_change_what_leaves(opened: Any, cloud: FakeCloud) -> None:
    """The product knows its data."""
    opened(before_send=lambda r: replace(r, text="scrubbed")).predict(UNSURE)

    assert cloud.asked[0].text == "scrubbed"


def test_a_subject_is_forgotten_everywhere(opened: Any, cloud: FakeCloud, tmp_path: Path) -> None:
    """In memory and on disk, hashed or not."""
    client = opened(state_dir=str(tmp_path), privacy=PrivacyConfig(hash_subjects=True))
    cloud.error = LinkDownError("away")
    client.predict(UNSURE, subject="anna")
    client.predict(UNSURE, subject="ben")
    wait_until(lambda: client.runtime.uploader.spool.stats().rows == 2)

    assert (client.forget("anna"), client.forget("anna")) == (1, 0)
    assert client.status().spool_rows == 1


def test_uncertified_students_ask_always_or_say_so(opened: Any, tmp_path: Path) -> None:
    """What the edge does then is the contract's `on_uncertified`, which a node may override."""
    build_bundle(tmp_path / "u", certified=False)
    strict = opened(bundle=tmp_path / "u")
    lax = opened(bundle=tmp_path / "u", contract=ContractConfig(on_uncertified=OnUncertified.SERVE))

    asked, served = strict.predict(SURE), lax.predict(SURE)
    assert (asked.source, asked.reason, asked.certified) == (
        Source.TEACHER,
        Reason.UNCERTIFIED,
        False,
    )
    assert (served.source, served.reason, served.certified) == (
        Source.STUDENT,
        Reason.UNCERTIFIED,
        False,
    )


def test_an_expired_certificate_covers_nothing(opened: Any, tmp_path: Path) -> None:
    """The proof was for a time."""
    from simulators.bundles import certificate
    from understudy.edge.bundle import encode_certificate

    old = encode_certificate(replace(certificate(), expires_unix_s=1.0))
    build_bundle(tmp_path / "o", replace={"certificate.json": old})
    client = opened(bundle=tmp_path / "o")

    assert not client.predict(SURE).certified
    assert not client.status().certified


def test_the_variant_for_this_cpu_brings_its_own_threshold(
    opened: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold belongs to one graph on one kind of CPU."""
    from simulators.bundles import certificate
    from understudy.edge.bundle import encode_certificate

    plain = read_bundle(bundle)
    parts = {
        ".avx9.".join(name.split(".")): plain.files[name]
        for name in ("encoder.onnx", "golden.json", "calibration.json", "certificate.json")
    }
    parts["certificate.avx9.json"] = encode_certificate(certificate(0.9999999))
    build_bundle(tmp_path / "v", prototypes=True, replace=parts)
    monkeypatch.setattr("understudy.edge.student.cpu_flags", lambda: frozenset({"avx9"}))
    here, there = opened(bundle=tmp_path / "v"), opened()

    assert (here.status().cpu, there.status().cpu) == ("avx9", "portable")
    assert here.predict(SURE).reason is Reason.UNSURE
    assert there.predict(SURE).reason is Reason.CONFIDENT


def test_a_directive_of_the_cloud_is_obeyed(opened: Any, cloud: FakeCloud) -> None:
    """Drift: the threshold rises, the certificate is withdrawn, more is audited."""
    cloud.directive = Directive(threshold_floor=0.9999999, audit_rate=0.5, certificate_revoked=True)
    client = opened()
    client.predict(SURE)
    wait_until(lambda: bool(client.status().audit_rate == 0.5))
    answer = client.predict(SURE)

    assert (answer.reason, answer.source, answer.certified) == (Reason.DRIFT, Source.TEACHER, False)
    assert not client.status().certified


def test_the_slice_of_a_request_travels_with_its_record(opened: Any, cloud: FakeCloud) -> None:
    """A slice can only be certified and watched where its rows are known."""
    opened().predict(UNSURE, slice_name="legal")

    assert ["legal"] == [record.slice_name for record in cloud.asked]


def test_a_check_in_counts_since_the_last_one_that_arrived(opened: Any, cloud: FakeCloud) -> None:
    """The fleet's sums must neither miss nor double a request."""
    client = opened(audit=AuditConfig(rate=1e-9))
    client.predict(SURE)
    wait_until(lambda: len(cloud.statuses) == 1)
    client.predict(UNSURE)
    client.check_for_update()
    wait_until(lambda: len(cloud.statuses) == 2)

    assert sum(s.requests for s in cloud.statuses) == 2
    assert sum(s.escalated for s in cloud.statuses) == 1
    assert cloud.statuses[-1].bundle == client.status().bundle


def test_a_client_that_closes_tells_what_it_counted(opened: Any, cloud: FakeCloud) -> None:
    """A command in a shell ends before its second check-in."""
    client = opened(audit=AuditConfig(rate=1e-9))
    client.predict(SURE)
    wait_until(lambda: len(cloud.statuses) == 1)
    client.predict(UNSURE)
    client.close()
    client.close()

    assert sum(s.requests for s in cloud.statuses) == 2
    assert sum(s.escalated for s in cloud.statuses) == 1


def test_a_client_that_closes_asks_nobody_who_did_not_answer(opened: Any, cloud: FakeCloud) -> None:
    """Where the network is dead, a close must not wait for it."""
    cloud.fleet_error = LinkDownError("no network")
    client = opened()
    client.predict(SURE)
    wait_until(lambda: client.status().faults.get("update") == 1)
    cloud.fleet_error = None
    client.close()

    assert [] == cloud.statuses


def test_a_cloud_that_fails_at_the_last_word_does_not_fail_the_close(
    opened: Any, cloud: FakeCloud
) -> None:
    """Whatever it raises; the fault is counted."""
    client = opened(audit=AuditConfig(rate=1e-9))
    client.predict(SURE)
    wait_until(lambda: len(cloud.statuses) == 1)
    client.predict(SURE)
    cloud.fleet_error = ZeroDivisionError()
    client.close()

    assert client.status().faults == {"update": 1}


def test_a_spent_budget_degrades_under_precedence_budget(opened: Any, cloud: FakeCloud) -> None:
    """Quality gives way to cost only where the contract says so, and the answer says so."""
    from understudy.types.contract import Precedence

    limits = ContractConfig(max_teacher_share=0.05, precedence=Precedence.BUDGET)
    client = opened(contract=limits, audit=AuditConfig(rate=1e-9))
    answers = [client.predict(UNSURE) for _ in range(120)]

    assert 0 < len(cloud.asked) < 60
    late = [a for a in answers if a.reason is Reason.NO_BUDGET]
    assert late
    assert all(a.degraded and not a.certified for a in late)


def test_a_batch_keeps_its_order_and_mixes_sources(opened: Any, cloud: FakeCloud) -> None:
    """One run of the student, one call to the teacher."""
    client = opened(audit=AuditConfig(rate=1e-9))
    answers = client.predict_many([SURE, UNSURE, "", "money sent to a bank account", "xx"])

    assert [a.label for a in answers][:2] == ["card", "refund"]
    assert [a.source for a in answers] == [
        Source.STUDENT,
        Source.TEACHER,
        Source.STUDENT,
        Source.STUDENT,
        Source.TEACHER,
    ]
    assert len(cloud.traces) == 1
    assert client.predict_many([]) == []


def test_a_large_batch_is_asked_in_pieces(opened: Any, cloud: FakeCloud) -> None:
    """No message grows without bound."""
    answers = opened(deadline_ms=10_000).predict_many([f"q{i}" for i in range(150)])

    assert len(cloud.asked) == 150
    assert len(cloud.traces) == 3
    assert [a.request_id for a in answers] == [r.event_id for r in cloud.asked]


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"deadline_ms": 0}, "deadline_ms must be positive"),
    ({"deadline_ms": float("nan")}, "deadline_ms must be positive"),
    ({"mode": "later"}, "mode must be one of wait, answer_first, edge_only"),
    ({"dead_line_ms": 3}, "Did you mean 'deadline_ms'"),
    ({"subject": 7}, "subject must be a str"),
    ({"traceparent": b"00"}, "traceparent must be a str"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_a_callers_slip_raises_at_once(opened: Any, options: dict[str, Any], message: str) -> None:
    """Programmer errors are the only ones that raise."""
    with pytest.raises(InvalidValueError, match=message):
        opened().predict(SURE, **options)
    with pytest.raises(InvalidValueError, match="takes a str"):
        opened().predict(b"bytes")


def test_an_answer_is_plain_data(opened: Any) -> None:
    """Products put answers into logs and responses."""
    assert asdict(opened().predict(SURE))["label"] == "card"


def test_a_failing_student_escalates(opened: Any, tmp_path: Path) -> None:
    """Numbers that cannot be used never mean easy."""
    head = topic_head()
    wild = Head(head.weight * np_huge(), head.bias, head.prototypes, head.prototype_labels)
    build_bundle(tmp_path / "w", golden=[], replace={HEAD: encode_head(wild)})
    client = opened(bundle=tmp_path / "w")

    assert client.predict(SURE).reason is Reason.INVALID_SCORE
    assert client.predict(SURE).source is Source.TEACHER


def np_huge() -> Any:
    import numpy as np

    return np.float32(1e37)


def test_a_calibration_that_cannot_score_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """Else every request would raise."""
    from understudy.edge.bundle import encode_calibration
    from understudy.types.contract import Calibration

    wrong = encode_calibration(Calibration(score="learned", weights={"mood": 1.0}))
    build_bundle(tmp_path / "c", replace={"calibration.json": wrong})

    with pytest.raises(BundleError, match="the calibration cannot be used: a learned score weighs"):
        EdgeClient.open(tmp_path / "c")


def test_a_bundle_that_cannot_be_loaded_leaves_the_present_one(opened: Any, tmp_path: Path) -> None:
    """A failed swap is not an outage."""
    build_bundle(tmp_path / "q", cpu="quantum9", golden=[])
    client = opened()
    before = client.status().bundle

    with pytest.raises(BundleError):
        client.swap(read_bundle(tmp_path / "q"))
    assert client.predict(SURE).bundle == before


def test_swaps_under_load_mix_no_bundles_and_drop_no_request(opened: Any, tmp_path: Path) -> None:
    """A hundred requests a second must not notice."""
    ids = {build_bundle(tmp_path / str(seed), seed=seed): tmp_path / str(seed) for seed in (1, 2)}
    bundles = [read_bundle(path) for path in ids.values()]
    client = opened(audit=AuditConfig(rate=1e-9))
    stop, answers, errors = threading.Event(), list[Answer](), list[BaseException]()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(client.predict(SURE))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test wants it
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        client.swap(bundles[turn % 2])
    stop.set()
    for thread in threads:
        thread.join()

    assert not errors
    assert {a.label for a in answers} == {"card"}
    assert {a.bundle for a in answers} - {client.status().bundle} != set()
    assert client.status().requests == len(answers)


def test_the_champion_runs_in_the_shadow_of_a_new_student(
    opened: Any, cloud: FakeCloud, tmp_path: Path
) -> None:
    """Paired answers are the sharpest evidence of a probation."""
    from understudy.edge.node import NodeView

    build_bundle(tmp_path / "n", seed=3)
    cloud.directive = Directive(shadow_rate=1.0)
    client = opened()
    client.swap(read_bundle(tmp_path / "n"))
    view = NodeView(client.runtime)
    view.obey(cloud.directive)
    for _ in range(3):
        client.predict(UNSURE)
    wait_until(lambda: view.probation().shadow_rows == 3)

    view.obey(Directive())
    assert client.runtime.champion is None


def test_a_closed_client_still_answers_alone(opened: Any) -> None:
    """Shutdown order in a product is nobody's promise."""
    client = opened()
    client.close()
    client.close()

    assert client.predict(SURE).label == "card"
    assert client.predict(UNSURE).degraded


def test_a_cloud_without_check_ins_is_not_looked_at_without_pause(opened: Any) -> None:
    """A product's own cloud may have none: the updater's thread must not spin for want of one."""
    runtime = opened()._runtime
    runtime._node = runtime._make_node = None
    pauses: list[float] = []
    runtime._pulse = SimpleNamespace(wait=pauses.append, clear=lambda: None, set=lambda: None)

    runtime._update_wait(threading.Event())

    assert pauses == [1.0]


def test_no_thread_runs_before_the_first_request(opened: Any) -> None:
    """A server that forks after loading must not fork a thread's locks."""
    client = opened()
    assert client.status().threads == ()
    client.predict(SURE)

    assert client.status().threads == ("understudy.uploader", "understudy.updater")
    client.close()
    assert client.status().threads == ()


def test_no_input_text_reaches_a_log(
    opened: Any, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at any level, not on any fault."""
    caplog.set_level(logging.DEBUG)
    client = opened(spool=SpoolConfig(queue_rows=1))
    for error in [error for error, _ in FAILURES] + [None]:
        cloud.error = error
        client.predict("canary canary")
        client.predict_many(["canary canary"] * 3)
    client.flush(0.2)

    assert caplog.records
    assert "canary" not in caplog.text
    assert "canary" not in repr(client) + str(client.status())


def test_a_full_queue_drops_and_counts(opened: Any, cloud: FakeCloud) -> None:
    """Bounded everything: memory, too."""
    client = opened(spool=SpoolConfig(queue_rows=2))
    client.runtime._upload._thread = threading.current_thread()  # no worker empties the queue
    cloud.error = LinkDownError("away")
    for _ in range(5):
        client.predict(UNSURE)
    client.runtime._upload._thread = None

    assert client.status().faults["queue"] >= 3
    assert client.status().spool_rows == 2


def test_a_full_queue_gives_up_the_least_valuable(opened: Any) -> None:
    """A disk that stalls must not cost the certificate its evidence."""
    client = opened(spool=SpoolConfig(queue_rows=2), audit=AuditConfig(rate=1.0), mode="edge_only")
    uploader = client.runtime.uploader
    client.runtime._upload._thread = threading.current_thread()  # no worker empties the queue
    audit = client.predict(SURE)
    for record in [kept.record for kept in uploader._records]:
        uploader.put(
            replace(record, event_id="sure", coin=False, confidence=0.9, kind=RecordKind.DEGRADED)
        )
        uploader.put(
            replace(record, event_id="new", coin=False, confidence=0.1, kind=RecordKind.DEGRADED)
        )
    client.runtime._upload._thread = None

    assert [k.record.event_id for k in uploader._records] == [audit.request_id, "new"]
    assert client.status().faults == {"queue": 1}


def test_an_audit_that_the_cloud_refuses_is_counted_as_lost(opened: Any, cloud: FakeCloud) -> None:
    """It will never be part of the sample."""
    client = opened(audit=AuditConfig(rate=1.0))
    cloud.outcome = ReceiptOutcome.REFUSED
    client.predict(SURE)
    assert client.flush(5)

    assert client.status().faults == {"refused": 1, "audit_lost": 1}


def test_a_configuration_without_a_student_is_refused(tmp_path: Path) -> None:
    """One sentence says what to set."""
    with pytest.raises(ConfigError, match="no student is installed in"):
        EdgeClient.open(EdgeConfig(state_dir=str(tmp_path)))
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        EdgeClient.open(tmp_path)


def test_tls_files_that_are_absent_are_an_error_at_once(bundle: Path, tmp_path: Path) -> None:
    """Not in a thread, an hour later."""
    config = tmp_path / "edge.yaml"
    config.write_text(
        f"bundle: {bundle}\ngateway: {{address: 'far.example:1', tls: {{ca: no.pem}}}}"
    )

    with pytest.raises(ConfigError, match=r"gateway\.tls\.ca: .*no\.pem cannot be read"):
        EdgeClient.open(config)


def test_both_clients_have_the_same_surface() -> None:
    """What is learned about one is known about the other."""
    renamed = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
    sync = {n: f for n, f in vars(EdgeClient).items() if callable(f) and not n.startswith("_")}
    twin = {n: f for n, f in vars(AsyncEdgeClient).items() if callable(f) and not n.startswith("_")}

    assert sync.keys() == twin.keys()
    assert {renamed[n] for n in renamed if hasattr(EdgeClient, n)} <= set(dir(AsyncEdgeClient))
    for name, function in sync.items():
        assert inspect.signature(function) == inspect.signature(twin[name]), name
    assert inspect.signature(EdgeClient.open) == inspect.signature(AsyncEdgeClient.open)


def test_the_asyncio_twin_gives_the_same_answers(bundle: Path, cloud: FakeCloud) -> None:
    """One flow drives both."""

    async def main() -> list[Answer]:
        config = EdgeConfig(bundle=str(bundle))
        async with AsyncEdgeClient.open(config, cloud=cloud) as client:
            one = await client.predict(SURE)
            many = await client.predict_many([UNSURE, SURE])
            cloud.error = LinkDownError("away")
            late = await client.predict(UNSURE)
            cloud.error = None
            assert await client.flush(5)
            assert (await client.status()).requests == 4
            await client.swap(read_bundle(bundle))
            assert await client.forget("nobody") == 0
            return [one, *many, late]

    answers = asyncio.run(main())

    wanted = [Reason.CONFIDENT, Reason.UNSURE, Reason.CONFIDENT, Reason.LINK_DOWN]
    assert wanted == [a.reason for a in answers]


def test_a_forgotten_client_is_collected(bundle: Path) -> None:
    """A hook for forks must not keep every client that ever was."""
    import weakref

    client = EdgeClient.open(bundle)
    reference = weakref.ref(client.runtime)
    client.close()
    del client
    gc.collect()

    assert reference() is None


def test_every_error_of_ours_has_a_reason() -> None:
    """A new error must not fall through."""
    from understudy.edge.circuit import reason_of

    for error in UnderstudyError.__subclasses__():
        assert isinstance(reason_of(error("x")), Reason)
