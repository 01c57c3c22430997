"""Whatever arrives, the gateway gives the right status, says what to do, counts, and goes on."""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from simulators.cloud_gateway import (
    LABELS,
    TASK,
    Cloud,
    config,
    event_id,
    record,
    running_cloud,
    wait_until,
)
from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.config import LogBackend, LogConfig, OperatorConfig
from understudy.types.convert import record_to_wire
from understudy.wire.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    records_pb2,
)

PREDICT = "/understudy.wire.v1.InferenceService/Predict"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    settings = config(
        tmp_path_factory.mktemp("cloud"), operator=OperatorConfig(address="127.0.0.1:0")
    )
    with running_cloud(settings) as running:
        yield running


@pytest.fixture
def channel(cloud: Cloud) -> Iterator[grpc.Channel]:
    """After each bad input the same connection to the same gateway answers a good one."""
    with cloud.badge().channel(cloud.address) as opened:
        yield opened
        assert LABELS[0] == predict(opened, wire()).label.labels[0]


def wire(**changes: object) -> records_pb2.EscalationRecord:
    made = record_to_wire(record())
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def predict(
    channel: grpc.Channel, message: records_pb2.EscalationRecord
) -> inference_pb2.PredictResponse:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.Predict(inference_pb2.PredictRequest(record=message), timeout=10)


def raw(channel: grpc.Channel, data: bytes) -> bytes:
    call: Any = channel.unary_unary(PREDICT)
    return bytes(call(data, timeout=10))


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def counted(cloud: Cloud, line: str) -> float:
    """The value of one line of the operator's metrics."""
    assert cloud.gateway.running is not None
    text = httpx.get(f"http://{cloud.gateway.running.operator_address}/metrics").text
    found = [row for row in text.splitlines() if row.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"event_id": ""}, "event_id", id="no event id"),
        pytest.param({"event_id": "7"}, "must be a UUIDv7", id="an event id of its own kind"),
        pytest.param({"task": "suport"}, "Did you mean 'support'?", id="misspelt task"),
        pytest.param({"task": ""}, "unknown to this cloud", id="no task"),
        pytest.param({"text": ""}, "the text is empty", id="empty text"),
        pytest.param({"text": " \n"}, "the text is empty", id="blank text"),
        pytest.param({"text": "a\x00b"}, "remove it", id="NUL"),
        pytest.param({"text": "ü" * 20_000}, "shorten it", id="long text"),
        pytest.param({"kind": 0}, "record kind 0", id="no kind"),
        pytest.param({"kind": 77}, "record kind 77", id="kind of a later version"),
        pytest.param({"confidence": math.nan}, "confidence must lie", id="confidence not a number"),
        pytest.param({"confidence": 1.5}, "confidence must lie", id="confidence above 1"),
        pytest.param({"propensity": -0.1}, "propensity must lie", id="negative propensity"),
        pytest.param({"threshold": math.nan}, "must be numbers", id="threshold not a number"),
        pytest.param({"created_unix_s": math.inf}, "must be numbers", id="endless clock"),
        pytest.param(
            {"created_unix_s": time.time() + 90_000}, "set the node's clock", id="clock a day ahead"
        ),
        pytest.param({"subject": "s" * 300}, "and a subject", id="long subject"),
    ],
)
def test_a_record_that_is_none_is_refused_with_what_to_change(
    cloud: Cloud, channel: grpc.Channel, changes: dict[str, object], words: str
) -> None:
    """INVALID_ARGUMENT tells the edge that sending it again will never help."""
    before = counted(cloud, 'understudy_refusals_total{reason="invalid"}')

    code, message = refusal(lambda: predict(channel, wire(**changes)))

    assert INVALID == code
    assert words in message
    assert before + 1 == counted(cloud, 'understudy_refusals_total{reason="invalid"}')


def test_a_label_that_the_task_does_not_have_is_named(channel: grpc.Channel) -> None:
    """A student of another task, or of an older label set, must not poison this one's log."""
    made = wire()
    made.top[0].label = "refunds"

    code, message = refusal(lambda: predict(channel, made))

    assert (INVALID, True) == (code, "label 'refunds' is unknown" in message)
    assert "Did you mean 'refund'?" in message


def test_too_many_labels_are_refused(channel: grpc.Channel) -> None:
    """Each is stored; a million of them would be an attack on the disk."""
    made = wire()
    made.top.extend(records_pb2.LabelScore(label="refund", score=0.0) for _ in range(100))

    assert INVALID == refusal(lambda: predict(channel, made))[0]


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel) -> None:
    """A field that claims more bytes than there are."""
    code, message = refusal(lambda: raw(channel, b"\x0a\xff\xff\x03abc"))

    assert (INVALID, True) == (code, "the message cannot be read" in message)


def test_text_that_is_no_utf8_is_refused(channel: grpc.Channel) -> None:
    """The wire's strings are UTF-8; bytes that are not must not reach the teacher."""
    good = inference_pb2.PredictRequest(record=wire(text="aaaaaaaa")).SerializeToString()

    code, message = refusal(lambda: raw(channel, good.replace(b"aaaaaaaa", b"\xff\xfe\x80aaaaa")))

    assert (INVALID, True) == (code, "UTF-8" in message)


def test_an_oversized_message_is_refused_before_it_is_read(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """The largest message is a mebibyte; the sender learns its limit, and sends it never again."""
    before = counted(cloud, 'understudy_refusals_total{reason="invalid"}')

    code, message = refusal(lambda: predict(channel, wire(text="a" * (2 << 20))))

    assert INVALID == code
    assert "at most 1048576 are taken, send fewer records" in message
    assert before + 1 == counted(cloud, 'understudy_refusals_total{reason="invalid"}')


def test_a_message_that_would_fill_memory_is_refused_by_the_transport(
    channel: grpc.Channel,
) -> None:
    """Beyond four times the limit it is not even taken in."""
    code, message = refusal(lambda: predict(channel, wire(text="a" * (5 << 20))))

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, True) == (code, "larger than max" in message)


def test_too_many_records_in_one_message_are_refused(channel: grpc.Channel) -> None:
    """256 is the promise of the wire."""
    request = feedback_pb2.ReportEscalationsRequest(records=[wire() for _ in range(257)])
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)

    code, message = refusal(lambda: stub.ReportEscalations(request, timeout=10))

    assert (INVALID, "send at most 256 records in one message") == (code, message)


def test_a_replayed_event_id_is_answered_and_counts_once(
    cloud: Cloud, channel: grpc.Channel
) -> None:
    """A hostile node that replays must gain nothing: no teacher call, no row."""
    made = wire(event_id=event_id())
    predict(channel, made)
    rows, asked = cloud.gateway.parts.log.stats().rows, cloud.teacher.asked

    for _ in range(5):
        predict(channel, made)

    assert (rows, asked) == (cloud.gateway.parts.log.stats().rows, cloud.teacher.asked)


def test_an_expired_deadline_is_a_deadline(channel: grpc.Channel) -> None:
    """The caller hears DEADLINE_EXCEEDED, whatever the server was doing."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)

    code, _ = refusal(
        lambda: stub.Predict(inference_pb2.PredictRequest(record=wire()), timeout=0.000_01)
    )

    assert grpc.StatusCode.DEADLINE_EXCEEDED == code


def test_a_service_that_does_not_exist_is_unimplemented(channel: grpc.Channel) -> None:
    """A newer client asks for what this version does not have."""
    call: Any = channel.unary_unary("/understudy.wire.v1.InferenceService/PredictTwice")

    assert grpc.StatusCode.UNIMPLEMENTED == refusal(lambda: call(b"", timeout=10))[0]


def test_an_unknown_task_may_not_check_in(channel: grpc.Channel) -> None:
    """Its counters would make a metric label of whatever it likes to send."""
    request = fleet_pb2.CheckInRequest(status=fleet_pb2.NodeStatus(task="nope"))
    stub = fleet_pb2_grpc.FleetServiceStub(channel)

    code, message = refusal(lambda: stub.CheckIn(request, timeout=10))

    assert (INVALID, True) == (code, "task 'nope' is unknown" in message)


def test_a_state_of_a_later_version_checks_in(channel: grpc.Channel) -> None:
    """A newer client must not be locked out by an older gateway."""
    status = fleet_pb2.NodeStatus(task=TASK, bundle="b" * 64)
    status.MergeFromString(b"\x20\x63")  # field 4, state: 99

    fleet_pb2_grpc.FleetServiceStub(channel).CheckIn(
        fleet_pb2.CheckInRequest(status=status), timeout=10
    )


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "timestamp.json", "x" * 5000, "a\x00b", "root"]
)
def test_metadata_that_is_not_there_is_not_found(channel: grpc.Channel, name: str) -> None:
    """No file outside of the repository has a name here."""
    stub = artifact_pb2_grpc.ArtifactServiceStub(channel)

    code, _ = refusal(
        lambda: stub.GetMetadata(artifact_pb2.GetMetadataRequest(name=name), timeout=10)
    )

    assert grpc.StatusCode.NOT_FOUND == code


@pytest.mark.parametrize("sha256", ["", "0" * 64, "../" * 10, "Z" * 64])
def test_a_blob_that_is_not_there_is_not_found(channel: grpc.Channel, sha256: str) -> None:
    """A digest is a digest, never a path."""
    stub = artifact_pb2_grpc.ArtifactServiceStub(channel)

    code, _ = refusal(
        lambda: list(stub.ReadBlob(artifact_pb2.ReadBlobRequest(sha256=sha256), timeout=10))
    )

    assert grpc.StatusCode.NOT_FOUND == code


def test_bytes_that_are_not_even_tls_leave_no_trace(cloud: Cloud, channel: grpc.Channel) -> None:
    """Port scanners and lost browsers knock every day."""
    host, _, port = cloud.address.rpartition(":")
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
        b"\x16\x03\x01" + b"a" * 200,
    ):
        with socket.create_connection((host, int(port)), timeout=5) as knock:
            knock.sendall(data)

    predict(channel, wire())


def test_a_handshake_without_http2_is_turned_away(cloud: Cloud, channel: grpc.Channel) -> None:
    """TLS as such is not enough; what follows must be HTTP/2."""
    badge, (host, _, port) = cloud.badge(), cloud.enroll_address.rpartition(":")
    context = ssl.create_default_context(cadata=badge.ca.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as knock,
    ):
        knock.sendall(b"not a preface at all\r\n\r\n" * 10)

    predict(channel, wire())


def test_a_redis_that_refuses_writes_is_said_and_passes(tmp_path: Path) -> None:
    """Full memory: nothing is acknowledged, weights flow, and it goes on when there is room."""
    with RedisProcess(tmp_path, *DURABLE) as server:
        log = LogConfig(backend=LogBackend.REDIS, url=server.url)
        with (
            running_cloud(config(tmp_path / "state", log=log)) as cloud,
            cloud.badge().channel(cloud.address) as channel,
        ):
            predict(channel, wire())
            server.command("CONFIG", "SET", "maxmemory", "1")

            code, message = refusal(lambda: predict(channel, wire()))
            request = feedback_pb2.ReportEscalationsRequest(records=[wire()])
            stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
            (receipt,) = stub.ReportEscalations(request, timeout=10).receipts

            assert (grpc.StatusCode.RESOURCE_EXHAUSTED, True) == (code, "refuses writes" in message)
            assert feedback_pb2.RECORD_OUTCOME_RETRY == receipt.outcome
            server.command("CONFIG", "SET", "maxmemory", "0")
            predict(channel, wire())


def test_a_redis_that_dies_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """SIGKILL, then a fresh start: every acknowledged row is there, and the gateway goes on."""
    with RedisProcess(tmp_path, *DURABLE) as server:
        log = LogConfig(backend=LogBackend.REDIS, url=server.url)
        with (
            running_cloud(config(tmp_path / "state", log=log)) as cloud,
            cloud.badge().channel(cloud.address) as channel,
        ):
            sent = [wire() for _ in range(20)]
            for one in sent:
                predict(channel, one)
            server.kill()

            code, message = refusal(lambda: predict(channel, wire()))
            server.start()
            wait_until(lambda: _answers(channel))

            assert (grpc.StatusCode.UNAVAILABLE, True) == (code, "cannot be reached" in message)
            kept = {row.record.event_id for row in cloud.gateway.parts.log.scan()}
            assert {one.event_id for one in sent} <= kept


def _answers(channel: grpc.Channel) -> bool:
    try:
        predict(channel, wire())
    except grpc.RpcError:
        return False
    return True
