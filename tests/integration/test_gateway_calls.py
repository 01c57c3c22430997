"""The gateway answers, logs before it answers, and says what to do when it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import generate_latest

from simulators.cloud_gateway import (
    LABELS,
    TASK,
    Cloud,
    ScriptedTeacher,
    config,
    event_id,
    label,
    record,
    running_cloud,
    wait_until,
)
from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.config import (
    CacheBackend,
    CacheConfig,
    GatherConfig,
    LogConfig,
    QuotaConfig,
)
from understudy.cloud.log import LogStats, NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.teacher import PromptOptions, TeacherSpec
from understudy.types.convert import label_from_wire, record_to_wire
from understudy.types.decision import RecordKind
from understudy.types.errors import (
    DeadlineError,
    OverloadedError,
    TeacherError,
)
from understudy.types.records import EscalationRecord, LoggedRow
from understudy.wire.v1 import (
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(config(tmp_path_factory.mktemp("cloud"))) as running:
        yield running


@pytest.fixture
def channel(cloud: Cloud) -> Iterator[grpc.Channel]:
    with cloud.badge().channel(cloud.address) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _obliging(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test told the shared teacher is forgotten after it."""
    yield
    if "cloud" in request.fixturenames:
        teacher = request.getfixturevalue("cloud").teacher
        teacher.gate.set()
        teacher.failure = None
        teacher.answer = lambda _: LABELS[0]


def predict(
    channel: grpc.Channel, asked: EscalationRecord, timeout_s: float | None = 10
) -> inference_pb2.PredictResponse:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    message = inference_pb2.PredictRequest(record=record_to_wire(asked))
    return stub.Predict(message, timeout=timeout_s)


def report(
    channel: grpc.Channel, *asked: EscalationRecord
) -> feedback_pb2.ReportEscalationsResponse:
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
    records = [record_to_wire(one) for one in asked]
    return stub.ReportEscalations(
        feedback_pb2.ReportEscalationsRequest(records=records), timeout=10
    )


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def stored(cloud: Cloud, asked: EscalationRecord, node: str = "kiosk-1") -> LoggedRow | None:
    return cloud.gateway.parts.log.find(asked.event_id, node)


def test_an_answer_that_comes_too_late_is_in_the_log_all_the_same(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """The product was answered by its student; the night wants to know what the teacher said."""
    asked, before = record(), cloud.teacher.asked
    cloud.teacher.gate.clear()
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    call = stub.Predict.future(inference_pb2.PredictRequest(record=record_to_wire(asked)))
    wait_until(lambda: cloud.teacher.asked > before)
    call.cancel()
    report(channel, record())  # on the same connection: the gateway has seen the end of the call
    assert stored(cloud, asked) is None
    cloud.teacher.gate.set()

    wait_until(lambda: stored(cloud, asked) is not None)
    late = replace(asked, kind=RecordKind.DEGRADED)
    assert report(channel, late).receipts[0].outcome == feedback_pb2.RECORD_OUTCOME_STORED
    row = stored(cloud, asked)
    assert row is not None
    assert row.teacher == label()


def test_an_escalation_is_answered_and_in_the_log(cloud: Cloud, channel: grpc.Channel) -> None:
    """One call does both: there is no second upload that could be lost."""
    asked = record(threshold=float("inf"))

    answer = predict(channel, asked)

    row = stored(cloud, asked)
    assert row is not None
    assert (label(), label()) == (label_from_wire(answer.label), row.teacher)
    assert (asked.text, "kiosk-1") == (row.record.text, row.record.node)


def test_the_teacher_is_asked_with_the_labels_of_the_task(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """Labels come from the operator's file, never from a node."""
    predict(channel, record(text="a text of its own"))

    (request,) = [r for call in cloud.teacher.calls for r in call if r.text == "a text of its own"]
    assert LABELS == request.labels


def test_repeating_a_call_asks_the_teacher_once(cloud: Cloud, channel: grpc.Channel) -> None:
    """A node repeats what was lost on the way; that must cost nothing and count once."""
    asked, before = record(), cloud.teacher.asked

    first = predict(channel, asked)
    second = predict(channel, asked)

    assert first == second
    assert before + 1 == cloud.teacher.asked


def test_repeating_a_call_in_flight_asks_the_teacher_once(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """Hedged or retried calls overlap with the one they repeat."""
    asked, before = record(), cloud.teacher.asked
    cloud.teacher.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(predict, channel, asked) for _ in range(2)]
        wait_until(lambda: cloud.teacher.asked > before)
        cloud.teacher.gate.set()
        answers = [one.result() for one in both]

    assert answers[0] == answers[1]
    assert before + 1 == cloud.teacher.asked


def test_a_repetition_after_a_restart_hears_the_first_answer(tmp_path: Path) -> None:
    """The log, not a process's memory, decides what was said."""
    asked, teacher = record(), ScriptedTeacher()
    with (
        running_cloud(config(tmp_path), teacher) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        first = predict(channel, asked)
        badge = cloud.badge()
    teacher.answer = lambda _: LABELS[1]

    with running_cloud(config(tmp_path), teacher) as cloud, badge.channel(cloud.address) as channel:
        again = predict(channel, asked)

        assert first == again
        assert 1 == cloud.gateway.parts.log.stats().rows


def test_two_nodes_with_the_same_event_id_do_not_meet(cloud: Cloud) -> None:
    """Identity comes from the certificate: nobody reads another node's answer."""
    asked = record()
    for node, best in (("kiosk-a", LABELS[0]), ("kiosk-b", LABELS[2])):
        cloud.teacher.answer = {asked.text: best}.__getitem__
        with cloud.badge(node).channel(cloud.address) as channel:
            assert best == predict(channel, asked).label.labels[0]


def test_a_batch_has_an_outcome_for_each_record(channel: grpc.Channel) -> None:
    """One bad record must not spoil its neighbours."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    records = [record_to_wire(one) for one in (record(), record(task="nope"), record())]

    answer = stub.PredictBatch(inference_pb2.PredictBatchRequest(records=records), timeout=10)

    assert ["label", "error", "label"] == [o.WhichOneof("outcome") for o in answer.outcomes]
    assert "task 'nope' is unknown" in answer.outcomes[1].error


def test_spooled_records_are_receipted_one_by_one(cloud: Cloud, channel: grpc.Channel) -> None:
    """The edge forgets exactly what is durable here, and what will never be taken."""
    good, bad = record(kind=RecordKind.DEGRADED), record(task="nope")

    receipts = report(channel, good, bad, good).receipts

    assert [
        (good.event_id, feedback_pb2.RECORD_OUTCOME_STORED),
        (bad.event_id, feedback_pb2.RECORD_OUTCOME_REFUSED),
        (good.event_id, feedback_pb2.RECORD_OUTCOME_STORED),
    ] == [(one.event_id, one.outcome) for one in receipts]
    assert stored(cloud, good) is not None
    assert stored(cloud, bad) is None


def test_audited_records_are_labelled_in_the_background(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """Audits prove the contract; nobody waits for their answer."""
    audit = record(kind=RecordKind.AUDIT, coin=True, propensity=0.02)
    plain = record(kind=RecordKind.DEGRADED)

    report(channel, audit, plain)

    def is_labelled() -> bool:
        row = stored(cloud, audit)
        return row is not None and row.teacher is not None

    wait_until(is_labelled)
    row = stored(cloud, plain)
    assert row is not None
    assert row.teacher is None


def test_what_the_background_could_not_label_does_not_stop_the_rest(tmp_path: Path) -> None:
    """A teacher that stays away for an hour is asked again, oldest first."""
    teacher = ScriptedTeacher()
    teacher.failure = OverloadedError("busy")
    with (
        running_cloud(config(tmp_path), teacher) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        report(channel, *(record(kind=RecordKind.AUDIT, coin=True) for _ in range(40)))
        wait_until(lambda: len(teacher.calls) > 2)
        teacher.failure = None

        wait_until(lambda: cloud.gateway.parts.log.stats().unlabelled == 0)


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        pytest.param(
            OverloadedError("full", 1.5), grpc.StatusCode.RESOURCE_EXHAUSTED, "full", id="full"
        ),
        pytest.param(DeadlineError("slow"), grpc.StatusCode.DEADLINE_EXCEEDED, "slow", id="slow"),
        pytest.param(TeacherError("odd"), grpc.StatusCode.INTERNAL, "odd", id="nonsense"),
        pytest.param(
            ZeroDivisionError(), grpc.StatusCode.INTERNAL, "ZeroDivisionError", id="its own bug"
        ),
    ],
)
def test_the_teachers_trouble_has_a_status_and_leaves_no_row(
    cloud: Cloud, channel: grpc.Channel, failure: Exception, status: grpc.StatusCode, words: str
) -> None:
    """The edge keeps the row and sends it later; a half-written one here would be in its way."""
    asked, cloud.teacher.failure = record(), failure

    code, message = refusal(lambda: predict(channel, asked))

    assert status == code
    assert words in message
    assert stored(cloud, asked) is None


def test_patience_is_asked_for_in_milliseconds(cloud: Cloud, channel: grpc.Channel) -> None:
    """gRPC's own retry logic reads this trailer; our edge does too."""
    cloud.teacher.failure = OverloadedError("full", 1.25)

    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, record())

    trailers = {one.key: one.value for one in caught.value.trailing_metadata() or ()}
    assert "1250" == str(trailers["grpc-retry-pushback-ms"])


def test_expired_work_is_not_put_to_the_teacher(tmp_path: Path) -> None:
    """Nobody waits for the answer any more; the teacher's time belongs to others."""
    settings = config(tmp_path, gather=GatherConfig(max_calls=1))
    with running_cloud(settings) as cloud, cloud.badge().channel(cloud.address) as channel:
        cloud.teacher.gate.clear()
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        message = inference_pb2.PredictRequest(record=record_to_wire(record(text="first")))
        first = stub.Predict.future(message, timeout=30)
        wait_until(lambda: cloud.teacher.asked == 1)

        code, _ = refusal(lambda: predict(channel, record(text="too late"), timeout_s=0.3))
        cloud.teacher.gate.set()
        first.result()
        predict(channel, record(text="after"))

        assert grpc.StatusCode.DEADLINE_EXCEEDED == code
        assert ["first", "after"] == [r.text for call in cloud.teacher.calls for r in call]


def test_a_caller_that_gives_up_leaves_those_who_repeat_it_alone(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """A retry that joined a call goes on when the first caller hangs up."""
    asked, before = record(), cloud.teacher.asked
    cloud.teacher.gate.clear()
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    message = inference_pb2.PredictRequest(record=record_to_wire(asked))
    first = stub.Predict.future(message, timeout=20)
    wait_until(lambda: cloud.teacher.asked > before)
    second = stub.Predict.future(message, timeout=20)

    first.cancel()
    cloud.teacher.gate.set()

    assert LABELS[0] == second.result().label.labels[0]


def test_without_a_teacher_feedback_and_check_ins_go_on(tmp_path: Path) -> None:
    """The main reason for a gateway of our own: weights and rows flow while Ray is down."""
    teacher = ScriptedTeacher()
    teacher.away = "Ray is down"
    settings = config(tmp_path, gateway={"wait_for_teacher": False})
    with running_cloud(settings, teacher) as cloud, cloud.badge().channel(cloud.address) as channel:
        status = fleet_pb2.NodeStatus(task=TASK, bundle="b" * 64)
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)

        directive = fleet.CheckIn(fleet_pb2.CheckInRequest(status=status), timeout=10).directive
        receipts = report(channel, record()).receipts

        assert directive.next_check_in_s > 0
        assert feedback_pb2.RECORD_OUTCOME_STORED == receipts[0].outcome


class RefusingLog(SqliteLog):
    """A real log whose disk is full when a test says so."""

    full = False

    def append(self, rows: object) -> list[LoggedRow]:
        if self.full:
            raise OverloadedError("the disk is full; make room", 2.0)
        return super().append(rows)  # type: ignore[arg-type]


def test_a_full_log_is_said_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    """Acknowledging what is not durable is the one thing that must never happen."""
    log = RefusingLog(tmp_path / "log.db")
    with (
        running_cloud(config(tmp_path), log=log) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        log.full = True

        code, message = refusal(lambda: predict(channel, record()))
        receipts = report(channel, record()).receipts

        assert (grpc.StatusCode.RESOURCE_EXHAUSTED, True) == (code, "make room" in message)
        assert feedback_pb2.RECORD_OUTCOME_RETRY == receipts[0].outcome
        log.full = False
        assert feedback_pb2.RECORD_OUTCOME_STORED == report(channel, record()).receipts[0].outcome


def test_a_flooding_node_meets_its_quota_and_others_do_not(tmp_path: Path) -> None:
    """One node's fault must stay its own."""
    quotas = QuotaConfig(requests_per_s=5, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1)
    with running_cloud(config(tmp_path, quotas=quotas)) as cloud:
        with cloud.badge("villain").channel(cloud.address) as flood:
            results = []
            for _ in range(20):
                try:
                    predict(flood, record())
                    results.append(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    results.append(error.code())
        with cloud.badge("honest").channel(cloud.address) as calm:
            predict(calm, record())

    assert grpc.StatusCode.RESOURCE_EXHAUSTED in results
    assert results[:5] == [grpc.StatusCode.OK] * 5


def test_a_flood_that_gives_up_its_calls_loses_its_connection(tmp_path: Path) -> None:
    """Late refusals slow down only who waits for them; the neighbour's connection stays."""
    quotas = QuotaConfig(requests_per_s=5, bytes_per_s=0, teacher_calls_per_s=0, burst_s=1)
    with (
        running_cloud(config(tmp_path, quotas=quotas)) as cloud,
        cloud.badge("villain").channel(cloud.address) as flood,
        cloud.badge("honest").channel(cloud.address) as calm,
    ):
        predict(calm, record())
        stub = inference_pb2_grpc.InferenceServiceStub(flood)
        codes: set[grpc.StatusCode] = set()

        def is_cut() -> bool:
            message = inference_pb2.PredictRequest(record=record_to_wire(record()))
            calls = [stub.Predict.future(message, timeout=0.05) for _ in range(40)]
            codes.update(call.exception().code() for call in calls if call.exception())  # type: ignore[union-attr]
            return b"understudy_connections_cut_total 0" not in generate_latest(
                cloud.gateway.metrics.registry
            )

        wait_until(is_cut)
        predict(calm, record())

    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes


def test_identical_inputs_are_answered_from_the_cache_when_it_is_on(tmp_path: Path) -> None:
    """Off by default; on, the teacher is asked once, and every row is still logged."""
    cache = CacheConfig(backend=CacheBackend.MEMORY)
    with (
        running_cloud(config(tmp_path, cache=cache)) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        answers = [predict(channel, record(text="the same words")) for _ in range(3)]

        assert [False, True, True] == [answer.cached for answer in answers]
        assert (1, 3) == (cloud.teacher.asked, cloud.gateway.parts.log.stats().rows)


def test_a_teacher_that_is_asked_in_other_words_does_not_answer_from_the_old_cache(
    tmp_path: Path,
) -> None:
    """Answers in Redis outlive the gateway that put them there."""
    with RedisProcess(tmp_path, *DURABLE) as server:
        cache = CacheConfig(backend=CacheBackend.REDIS, url=server.url)
        cached = []
        for words in ("Which fits?", "Which fits?", "Which fits best?"):
            teacher = TeacherSpec(prompt=PromptOptions(instruction=words))
            settings = config(tmp_path / "state", cache=cache, teacher=teacher)
            with running_cloud(settings) as cloud, cloud.enroll("n").channel(cloud.address) as call:
                cached.append(predict(call, record(text="the same words")).cached)

    assert [False, True, False] == cached


def test_a_clock_that_is_behind_is_taken_and_one_ahead_is_not(channel: grpc.Channel) -> None:
    """A row may have waited in a spool for days; a row of tomorrow is a broken clock."""
    now = time.time()
    late = record(created_unix_s=now - 5 * 86_400, event_id=event_id(now - 5 * 86_400))

    receipts = report(channel, late, record(created_unix_s=now + 86_400)).receipts

    assert [feedback_pb2.RECORD_OUTCOME_STORED, feedback_pb2.RECORD_OUTCOME_REFUSED] == [
        one.outcome for one in receipts
    ]
    assert "set the node's clock" in receipts[1].message


def test_retention_deletes_only_what_readers_are_done_with(tmp_path: Path) -> None:
    """Old rows go, unread ones stay, whatever their age."""
    log = SqliteLog(tmp_path / "log.db", now=lambda: time.time() - 100 * 86_400)
    rows = log.append([NewRow(record(node="n")) for _ in range(2)])
    log.acknowledge("night", [row.sequence for row in log.read("night", 1)])
    settings = config(tmp_path, log=LogConfig(retention_days=30))
    with running_cloud(settings, log=log) as cloud:

        def stats() -> LogStats:
            return cloud.gateway.parts.log.stats()

        wait_until(lambda: stats().rows == 1)
        assert rows[1:] == list(cloud.gateway.parts.log.scan())
