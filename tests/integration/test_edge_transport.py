"""Rules of the link, against a real server on a real socket: every failure is one of our errors."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest

from simulators.certificates import Authority
from simulators.edge_gateway import EdgeGateway, answer_after, refuse_with
from understudy.edge.ports import ReceiptOutcome
from understudy.edge.transport import AsyncCloudLink, CloudLink, LinkCredentials, is_loopback
from understudy.types.decision import RecordKind
from understudy.types.errors import (
    AccessError,
    BundleError,
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    LinkError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord, LabelScore
from understudy.types.release import Directive, NodeStatus, UpdateState
from understudy.wire.v1 import feedback_pb2


def record(event_id: str = "e1", text: str = "my card") -> EscalationRecord:
    return EscalationRecord(
        event_id, "support", "b", text, (LabelScore("card", 0.6),), 0.2, 0.5,
        RecordKind.ESCALATION, coin=False, audit_rate=0.1, propensity=1.0, created_unix_s=1.0,
    )  # fmt: skip


@pytest.fixture
def gateway() -> Iterator[EdgeGateway]:
    with EdgeGateway() as running:
        yield running


@pytest.fixture
def link(gateway: EdgeGateway) -> Iterator[CloudLink]:
    opened = CloudLink(gateway.address)
    yield opened
    opened.close()


def test_the_teachers_label_comes_back_and_the_record_arrives_whole(
    gateway: EdgeGateway, link: CloudLink
) -> None:
    """One call answers and logs."""
    label = link.predict(record(), 5, traceparent="00-abc-def-01")

    assert gateway.label == label
    assert gateway.stored["e1"].text == "my card"
    assert gateway.metadata["Predict"]["traceparent"] == "00-abc-def-01"


@pytest.mark.parametrize("trace", ["00-abc\n", "00-äöü", "\x00"])
def test_a_trace_that_no_header_can_carry_costs_the_trace_only(
    gateway: EdgeGateway, link: CloudLink, trace: str
) -> None:
    """It comes from the product's own callers, who may send anything."""
    assert gateway.label == link.predict(record(), 5, traceparent=trace)
    assert "traceparent" not in gateway.metadata["Predict"]


def test_a_batch_gives_one_outcome_a_record(gateway: EdgeGateway, link: CloudLink) -> None:
    """One bad record must not spoil its neighbours."""
    gateway.outcome["e2"] = 0

    first, second = link.predict_batch([record("e1"), record("e2")], 5)

    assert gateway.label == first
    assert isinstance(second, TeacherError)


def test_reports_come_back_with_one_receipt_each(gateway: EdgeGateway, link: CloudLink) -> None:
    """What has no `stored` receipt must stay on the edge."""
    gateway.outcome = {
        "e2": feedback_pb2.RECORD_OUTCOME_REFUSED,
        "e3": feedback_pb2.RECORD_OUTCOME_RETRY,
        "e4": feedback_pb2.RECORD_OUTCOME_UNSPECIFIED,
    }

    receipts = link.report([record(f"e{i}") for i in (1, 2, 3, 4)], 5)

    wanted = [
        ReceiptOutcome.STORED,
        ReceiptOutcome.REFUSED,
        ReceiptOutcome.RETRY,
        ReceiptOutcome.RETRY,
    ]
    assert wanted == [receipt.outcome for receipt in receipts]


def test_a_check_in_brings_a_directive(gateway: EdgeGateway, link: CloudLink) -> None:
    """This is how the cloud reaches a node at all."""
    gateway.directive = Directive(
        bundle="abc", threshold_floor=0.9, audit_rate=0.2, certificate_revoked=True
    )
    status = NodeStatus(task="support", bundle="b", state=UpdateState.PROBATION, requests=7)

    assert gateway.directive == link.check_in(status, 5)
    assert [status] == gateway.statuses


def test_metadata_and_blobs_come_from_any_offset(gateway: EdgeGateway, link: CloudLink) -> None:
    """A download resumes where it stopped."""
    gateway.roles["timestamp.json"] = b"{}"
    gateway.blobs["ab"] = bytes(range(256)) * 1000

    assert link.metadata("timestamp.json", 5) == b"{}"
    assert gateway.blobs["ab"] == b"".join(link.blob("ab", 0, 5))
    assert gateway.blobs["ab"][100_001:] == b"".join(link.blob("ab", 100_001, 5))
    assert list(link.blob("ab", 256_000, 5)) == []


@pytest.mark.parametrize(("sha256", "offset"), [("missing", 0), ("ab", 10**9)])
def test_a_blob_that_is_not_there_is_a_bundle_error(
    gateway: EdgeGateway, link: CloudLink, sha256: str, offset: int
) -> None:
    """Trying again cannot help."""
    gateway.blobs["ab"] = b"x"

    with pytest.raises(BundleError):
        list(link.blob(sha256, offset, 5))


def test_a_blob_reader_that_stops_early_ends_the_call(
    gateway: EdgeGateway, link: CloudLink
) -> None:
    """A paused download must not keep the server sending."""
    gateway.blobs["ab"] = b"x" * (1 << 22)
    reader = link.blob("ab", 0, 5)
    next(iter(reader))

    reader.close()  # type: ignore[attr-defined] # a generator

    assert link.predict(record(), 5) == gateway.label


def test_a_node_enrols_and_renews(link: CloudLink) -> None:
    """Certificates live days, so renewal is routine."""
    got = link.enroll("t1", b"csr", 5)

    assert (got.certificate, got.ca_certificate, got.node) == (b"cert of csr", b"ca", "node-t1")
    assert link.renew(b"csr2", 5).certificate == b"new cert of csr2"


STATUSES = [
    (grpc.StatusCode.UNAVAILABLE, LinkDownError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
    (grpc.StatusCode.UNAUTHENTICATED, AccessError),
    (grpc.StatusCode.PERMISSION_DENIED, AccessError),
    (grpc.StatusCode.INTERNAL, TeacherError),
    (grpc.StatusCode.UNKNOWN, TeacherError),
    (grpc.StatusCode.UNIMPLEMENTED, TeacherError),
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidValueError),
    (grpc.StatusCode.ABORTED, LinkError),
]


@pytest.mark.parametrize(("code", "error"), STATUSES, ids=lambda value: getattr(value, "name", ""))
def test_every_status_is_an_error_of_ours(
    gateway: EdgeGateway, link: CloudLink, code: grpc.StatusCode, error: type[UnderstudyError]
) -> None:
    """Callers act on our errors and never see the transport's."""
    gateway.fault = refuse_with(code)

    with pytest.raises(error, match=f"{code.name}: as asked"):
        link.predict(record(), 5)


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_push_back_says_how_long_to_wait(
    gateway: EdgeGateway, link: CloudLink, code: grpc.StatusCode
) -> None:
    """A server under load must be able to slow its clients down."""
    gateway.fault = refuse_with(code, pushback_ms=1500)

    with pytest.raises(OverloadedError) as caught:
        link.predict(record(), 1)
    assert caught.value.retry_after_s == 1.5


def test_a_late_answer_is_a_deadline(gateway: EdgeGateway, link: CloudLink) -> None:
    """The product's time is over, whatever the server does."""
    gateway.fault = answer_after(30)

    with pytest.raises(DeadlineError):
        link.predict(record(), 0.1)


def test_nobody_there_is_link_down() -> None:
    """Refused at once, by a port that was just free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    link = CloudLink(f"127.0.0.1:{port}")

    with pytest.raises(LinkDownError):
        link.predict(record(), 5)
    link.close()


def test_a_black_hole_ends_at_the_deadline() -> None:
    """The peer accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = CloudLink(f"127.0.0.1:{server.getsockname()[1]}")

        with pytest.raises(LinkError):
            link.predict(record(), 0.2)
        link.close()


def test_garbage_is_an_error_of_ours() -> None:
    """Something else listens on the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_speak_garbage, args=(server,))
        thread.start()
        link = CloudLink(f"127.0.0.1:{server.getsockname()[1]}")

        with pytest.raises((LinkError, TeacherError)):
            link.predict(record(), 2)
        link.close()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_closed_link_says_so(link: CloudLink) -> None:
    """Use after close must not hang or leak a foreign error."""
    link.close()

    with pytest.raises(LinkDownError, match="closed"):
        link.predict(record(), 1)


def test_a_distant_address_needs_tls() -> None:
    """Inputs and labels never cross a network in the clear."""
    with pytest.raises(ConfigError, match=r"gateway\.tls must be set"):
        CloudLink("gateway.example:8443")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("localhost:1", True), ("127.0.0.9:1", True), ("[::1]:1", True), ("unix:/run/x", True),
     ("10.0.0.1:1", False), ("example.org:1", False), ("localhost.evil.org:1", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(address: str, *, wanted: bool) -> None:
    """A name that merely starts like localhost is somewhere else."""
    assert wanted == is_loopback(address)


def _mutual_tls(authority: Authority) -> grpc.ServerCredentials:
    certificate, key = authority.issue()
    return grpc.ssl_server_credentials(
        [(key, certificate)], authority.certificate, require_client_auth=True
    )


def test_mutual_tls_carries_calls() -> None:
    """The certificate is the node's identity."""
    authority = Authority()
    certificate, key = authority.issue("node")
    with EdgeGateway(_mutual_tls(authority)) as gateway:
        link = CloudLink(gateway.address, LinkCredentials(authority.certificate, certificate, key))

        assert link.predict(record(), 5) == gateway.label
        link.close()


def test_a_server_of_another_authority_is_not_talked_to() -> None:
    """Whoever answers the port is not yet our cloud."""
    authority, stranger = Authority(), Authority("stranger")
    certificate, key = stranger.issue()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    with EdgeGateway(credentials) as gateway:
        link = CloudLink(gateway.address, LinkCredentials(authority.certificate))

        with pytest.raises(LinkError):
            link.predict(record(), 2)
        link.close()
        assert gateway.stored == {}


def test_a_node_of_another_authority_is_not_let_in() -> None:
    """An own certificate of any other maker opens nothing."""
    authority, stranger = Authority(), Authority("stranger")
    certificate, key = stranger.issue("node")
    with EdgeGateway(_mutual_tls(authority)) as gateway:
        link = CloudLink(gateway.address, LinkCredentials(authority.certificate, certificate, key))

        with pytest.raises(LinkError):
            link.predict(record(), 2)
        link.close()


def test_the_key_is_not_in_the_credentials_repr() -> None:
    """Whatever is logged must not open the door."""
    assert "SECRET" not in repr(LinkCredentials(b"ca", b"cert", b"SECRET"))


def test_the_asyncio_twin_answers_and_fails_alike(gateway: EdgeGateway) -> None:
    """Both clients see the same nouns and the same errors."""

    async def main() -> None:
        link = AsyncCloudLink(gateway.address)
        assert await link.predict(record(), 5) == gateway.label
        assert await link.predict_batch([record("e9")], 5) == [gateway.label]
        gateway.fault = refuse_with(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms=2000)
        with pytest.raises(OverloadedError) as caught:
            await link.predict(record(), 5)
        assert caught.value.retry_after_s == 2.0
        await link.close()
        with pytest.raises(LinkDownError):
            await link.predict(record(), 5)

    asyncio.run(main())


def _speak_garbage(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer:
            peer.sendall(b"\x00\xffHTTP/1.1 200 OK\r\n\r\ngarbage" * 50)
