"""Who may call the gateway, and how a node gets, keeps and loses that right."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from simulators.certificates import Authority
from simulators.cloud_gateway import (
    Badge,
    Cloud,
    config,
    enroll,
    record,
    running_cloud,
    wait_until,
)
from understudy.cloud.authority import make_request, open_authority
from understudy.cloud.config import TlsConfig
from understudy.types.convert import record_to_wire
from understudy.types.errors import ConfigError
from understudy.wire.v1 import (
    enrollment_pb2,
    enrollment_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
INFERENCE = "understudy.wire.v1.InferenceService"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(config(tmp_path_factory.mktemp("cloud"))) as running:
        yield running


def predict(channel: grpc.Channel) -> inference_pb2.PredictResponse:
    message = inference_pb2.PredictRequest(record=record_to_wire(record()))
    return inference_pb2_grpc.InferenceServiceStub(channel).Predict(message, timeout=10)


def renew(channel: grpc.Channel, request_pem: bytes) -> bytes:
    stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
    message = enrollment_pb2.RenewCertificateRequest(certificate_request=request_pem)
    return stub.RenewCertificate(message, timeout=10).certificate


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details() or ""


def signed_badge(cloud: Cloud, node: str, *, days: float = 1.0) -> Badge:
    """A certificate by the cloud's own authority, without its enrolment desk."""
    authority = open_authority(cloud.gateway.config.path("ca"))
    request = make_request(node)
    signed = authority.sign_node(request.certificate, node, days=days)
    return Badge(node, authority.certificate_pem, request.key, signed)


def test_a_token_is_good_once(cloud: Cloud) -> None:
    """Whoever reads an old invitation must not become that node."""
    invitation = cloud.gateway.parts.enrolment.invite(
        "kiosk-7", address=cloud.address, enroll_address=cloud.enroll_address
    )
    ca, request = invitation.ca_certificate.encode(), make_request("kiosk-7").certificate

    first = enroll(cloud.enroll_address, ca, invitation.token, request)
    code, message = refusal(lambda: enroll(cloud.enroll_address, ca, invitation.token, request))

    assert "kiosk-7" == first.node
    assert grpc.StatusCode.PERMISSION_DENIED == code
    assert "used before; ask the operator for a new one" in message


@pytest.mark.parametrize(
    ("token", "request_pem", "status", "words"),
    [
        pytest.param(
            "guess", None, grpc.StatusCode.PERMISSION_DENIED, "is unknown", id="unknown token"
        ),
        pytest.param(
            "", b"not PEM", grpc.StatusCode.INVALID_ARGUMENT, "cannot be read", id="no request"
        ),
    ],
)
def test_an_unusable_enrolment_says_why(
    cloud: Cloud, token: str, request_pem: bytes | None, status: grpc.StatusCode, words: str
) -> None:
    """A person stands in front of that node and has to do something."""
    invitation = cloud.gateway.parts.enrolment.invite(
        "kiosk-8", address=cloud.address, enroll_address=cloud.enroll_address
    )
    request = request_pem or make_request("kiosk-8").certificate

    code, message = refusal(
        lambda: enroll(
            cloud.enroll_address,
            invitation.ca_certificate.encode(),
            token or invitation.token,
            request,
        )
    )

    assert (status, True) == (code, words in message)


def test_the_enrolment_port_does_nothing_else(cloud: Cloud) -> None:
    """It takes anybody: no weights, no answers, no renewal there."""
    ca = cloud.gateway.parts.enrolment.ca_certificate
    with grpc.secure_channel(cloud.enroll_address, grpc.ssl_channel_credentials(ca)) as channel:
        code, _ = refusal(lambda: predict(channel))
        renewal, message = refusal(lambda: renew(channel, make_request("x").certificate))

    assert grpc.StatusCode.UNIMPLEMENTED == code
    assert (grpc.StatusCode.UNAUTHENTICATED, True) == (renewal, "certificate" in message)


def test_a_certificate_of_a_foreign_authority_does_not_connect(cloud: Cloud) -> None:
    """TLS itself turns it away, before any of our code sees a byte."""
    foreign = Authority()
    certificate, key = foreign.issue("kiosk-1")
    badge = Badge("kiosk-1", cloud.badge().ca, key, certificate)

    with badge.channel(cloud.address) as channel:
        code, _ = refusal(lambda: predict(channel))
    with cloud.badge().channel(cloud.address) as channel:
        predict(channel)

    assert grpc.StatusCode.UNAVAILABLE == code


def test_a_connection_without_certificate_is_refused(cloud: Cloud) -> None:
    """The node's port is for nodes."""
    credentials = grpc.ssl_channel_credentials(cloud.badge().ca)
    with grpc.secure_channel(cloud.address, credentials) as channel:
        code, _ = refusal(lambda: predict(channel))

    assert grpc.StatusCode.UNAVAILABLE == code


def test_plain_text_is_refused(cloud: Cloud) -> None:
    """There is no mode without TLS."""
    with grpc.insecure_channel(cloud.address) as channel:
        code, _ = refusal(lambda: predict(channel))

    assert grpc.StatusCode.UNAVAILABLE == code


def test_a_server_certificate_of_ours_names_no_node(cloud: Cloud) -> None:
    """The authority also signs gateways: one of those must not pass for a node."""
    authority = open_authority(cloud.gateway.config.path("ca"))
    shown = authority.issue_server(["localhost"], days=1)
    badge = Badge("", authority.certificate_pem, shown.key, shown.certificate)

    with badge.channel(cloud.address) as channel:
        code, _ = refusal(lambda: predict(channel))

    # BoringSSL refuses its key usage in the handshake; a lenient library would reach our check.
    assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}


def test_a_revoked_node_is_out_within_seconds_on_its_open_connection(cloud: Cloud) -> None:
    """A stolen device keeps its connection open; the deny-list is asked with every call."""
    badge = cloud.enroll("stolen-1")
    with badge.channel(cloud.address) as channel:
        predict(channel)

        cloud.gateway.parts.enrolment.revoke("stolen-1")

        wait_until(lambda: _is_denied(channel))
        code, message = refusal(lambda: predict(channel))
        renewal, _ = refusal(lambda: renew(channel, make_request("stolen-1").certificate))
    assert (grpc.StatusCode.PERMISSION_DENIED, True) == (code, "ask the operator" in message)
    assert grpc.StatusCode.PERMISSION_DENIED == renewal


def _is_denied(channel: grpc.Channel) -> bool:
    try:
        predict(channel)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.PERMISSION_DENIED
    return False


def test_a_revoked_node_comes_back_with_a_new_invitation_only(cloud: Cloud) -> None:
    """The new certificate is good; the old one, wherever it is, stays denied."""
    old = cloud.enroll("lost-1")
    cloud.gateway.parts.enrolment.revoke("lost-1")

    new = cloud.enroll("lost-1")

    with new.channel(cloud.address) as channel:
        predict(channel)
    with old.channel(cloud.address) as channel:
        wait_until(lambda: _is_denied(channel))


def test_a_node_renews_with_the_certificate_it_has(cloud: Cloud) -> None:
    """Certificates are short-lived; nobody walks to the device every fortnight."""
    badge = cloud.enroll("renewing-1")
    request = make_request("another-name")
    with badge.channel(cloud.address) as channel:
        renewed = renew(channel, request.certificate)

    with Badge("renewing-1", badge.ca, request.key, renewed).channel(cloud.address) as channel:
        predict(channel)
    (row,) = [n for n in cloud.gateway.parts.enrolment.nodes() if n.node == "renewing-1"]
    assert 2 == len(row.serials)


def test_a_certificate_that_runs_out_on_an_open_connection_is_refused(cloud: Cloud) -> None:
    """TLS looks at dates once; connections of an edge live for weeks."""
    badge = signed_badge(cloud, "short-1", days=1.2 / 86_400)
    with badge.channel(cloud.address) as channel:
        wait_until(lambda: _is_denied(channel))
        _, message = refusal(lambda: predict(channel))

    assert "ran out; enrol it again" in message


def test_the_gateways_certificate_is_read_again_when_its_files_change(tmp_path: Path) -> None:
    """The operator's own certificates are renewed by somebody else's cron job."""
    authority = Authority("operator")

    def put(name: str) -> None:
        certificate, key = authority.issue(name)
        (tmp_path / "server.pem").write_bytes(certificate)
        (tmp_path / "server.key").write_bytes(key)

    put("localhost")
    tls = TlsConfig(certificate=str(tmp_path / "server.pem"), key=str(tmp_path / "server.key"))
    with running_cloud(config(tmp_path / "state", tls=tls)) as cloud:
        badge = signed_badge(cloud, "kiosk-1")
        trusting = Badge(badge.node, authority.certificate, badge.key, badge.certificate)
        before = _shown_serial(cloud, authority)

        put("localhost")

        wait_until(lambda: _shown_serial(cloud, authority) != before)
        target = (("grpc.ssl_target_name_override", "localhost"),)
        credentials = grpc.ssl_channel_credentials(trusting.ca, trusting.key, trusting.certificate)
        with grpc.secure_channel(cloud.address, credentials, target) as channel:
            predict(channel)


def _shown_serial(cloud: Cloud, authority: Authority) -> int:
    import socket
    import ssl

    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    host, _, port = cloud.enroll_address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain) as shown,
    ):
        data = shown.getpeercert(binary_form=True)
    assert data is not None
    return x509.load_der_x509_certificate(data).serial_number


def test_a_key_that_does_not_fit_its_certificate_is_said_at_the_start(tmp_path: Path) -> None:
    """gRPC would start and fail every handshake in silence."""
    authority = Authority()
    (tmp_path / "server.pem").write_bytes(authority.issue("localhost")[0])
    (tmp_path / "server.key").write_bytes(authority.issue("localhost")[1])
    tls = TlsConfig(certificate=str(tmp_path / "server.pem"), key=str(tmp_path / "server.key"))

    with (
        pytest.raises(ConfigError, match="does not belong"),
        running_cloud(config(tmp_path / "state", tls=tls)),
    ):
        raise AssertionError("unreachable")


def test_a_port_in_use_is_said_in_one_sentence(cloud: Cloud, tmp_path: Path) -> None:
    """The commonest mistake of all."""
    taken = config(tmp_path, gateway={"address": cloud.address})

    with pytest.raises(ConfigError, match=r"change gateway\.address"), running_cloud(taken):
        raise AssertionError("unreachable")


def test_health_is_told_by_service(tmp_path: Path) -> None:
    """A balancer must not take the gateway out because the teacher is away."""
    from simulators.cloud_gateway import ScriptedTeacher

    teacher = ScriptedTeacher()
    teacher.away = "Ray is down"
    settings = config(tmp_path, gateway={"wait_for_teacher": False})
    with running_cloud(settings, teacher) as cloud:
        ca = cloud.gateway.parts.enrolment.ca_certificate
        with grpc.secure_channel(cloud.enroll_address, grpc.ssl_channel_credentials(ca)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            def health(service: str) -> int:
                request = health_pb2.HealthCheckRequest(service=service)
                return int(stub.Check(request, timeout=5).status)

            assert (SERVING, NOT_SERVING) == (health(""), health(INFERENCE))
            teacher.away = ""
            wait_until(lambda: health(INFERENCE) == SERVING)


def test_reflection_answers_only_when_it_was_asked_for(cloud: Cloud, tmp_path: Path) -> None:
    """It tells strangers what there is; a developer switches it on."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    def services(running: Cloud) -> list[str]:
        with running.badge().channel(running.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
            return [one.name for one in answer.list_services_response.service]

    code, _ = refusal(lambda: services(cloud))
    with running_cloud(config(tmp_path, gateway={"reflection": True})) as open_one:
        assert INFERENCE in services(open_one)

    assert grpc.StatusCode.UNIMPLEMENTED == code


def test_enrolment_lists_who_is_there(cloud: Cloud) -> None:
    """`understudy node list` reads this."""
    cloud.badge("listed-1")

    (found,) = [n for n in cloud.gateway.parts.enrolment.nodes() if n.node == "listed-1"]

    assert found.enrolled_unix_s <= time.time()
    assert all(
        dt.datetime.fromtimestamp(until, dt.UTC) > dt.datetime.now(dt.UTC)
        for until in found.serials.values()
    )
