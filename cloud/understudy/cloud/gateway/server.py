"""The gRPC servers: one for nodes with a certificate, one for nodes that want theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from understudy.cloud.authority import Credential
from understudy.cloud.gateway.layers import Layer, Layers
from understudy.cloud.gateway.services import (
    ArtifactFace,
    EnrollmentFace,
    FeedbackFace,
    FleetFace,
    InferenceFace,
)
from understudy.types.errors import ConfigError
from understudy.wire.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

INFERENCE, FEEDBACK, ARTIFACT, FLEET, ENROLLMENT = (
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (inference_pb2, "InferenceService"),
        (feedback_pb2, "FeedbackService"),
        (artifact_pb2, "ArtifactService"),
        (fleet_pb2, "FleetService"),
        (enrollment_pb2, "EnrollmentService"),
    )
)
SERVICES = (INFERENCE, FEEDBACK, ARTIFACT, FLEET, ENROLLMENT)
"""Full names of our services; each has its own entry in `grpc.health.v1`."""


@dataclass(frozen=True, slots=True)
class Faces:
    """One servicer of each service."""

    inference: InferenceFace
    feedback: FeedbackFace
    artifact: ArtifactFace
    fleet: FleetFace
    enrollment: EnrollmentFace


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds of one server.

    Attributes:
        max_message_bytes: Largest message taken.
        max_streams: Most concurrent calls of one connection.
        reuse_port: True to share the address with other processes.
    """

    max_message_bytes: int
    max_streams: int
    reuse_port: bool = False

    def options(self) -> list[tuple[str, int]]:
        """The same as gRPC's channel arguments."""
        return [
            # gRPC refuses without counting or saying what to do; up to here our own layer does.
            ("grpc.max_receive_message_length", 4 * self.max_message_bytes),
            # Blob chunks are the largest messages sent: a mebibyte, and a little around it.
            ("grpc.max_send_message_length", (1 << 20) + (64 << 10)),
            ("grpc.max_concurrent_streams", self.max_streams),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.so_reuseport", int(self.reuse_port)),
            # Edge clients ping at five minutes at the most often; hours of silence are fine.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 60_000),
            ("grpc.keepalive_time_ms", 300_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


class HealthBoard:
    """What `grpc.health.v1` says, by service; the empty name stands for the process."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set(self, service: str, *, serving: bool) -> None:
        """Sets one service."""
        status = health_pb2.HealthCheckResponse
        await self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def drain(self) -> None:
        """Everything answers NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()


def make_node_server(
    faces: Faces, board: HealthBoard, layers: Sequence[Layer], limits: ServerLimits
) -> grpc.aio.Server:
    """The server nodes connect to; not bound and not started."""
    server = grpc.aio.server(interceptors=[Layers(layers)], options=limits.options())
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(faces.inference, server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(faces.feedback, server)
    artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(faces.artifact, server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(faces.fleet, server)
    enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(faces.enrollment, server)
    health_pb2_grpc.add_HealthServicer_to_server(board.servicer, server)
    return server


def make_enroll_server(
    faces: Faces, board: HealthBoard, layers: Sequence[Layer], limits: ServerLimits
) -> grpc.aio.Server:
    """The server a node without certificate talks to: enrolment and health, nothing else."""
    server = grpc.aio.server(interceptors=[Layers(layers)], options=limits.options())
    enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server(faces.enrollment, server)
    health_pb2_grpc.add_HealthServicer_to_server(board.servicer, server)
    return server


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Binds over TLS and returns the port.

    Raises:
        ConfigError: If the address cannot be had.
    """
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"the gateway cannot listen on {address}: the port is in use or not ours; "
            "change gateway.address or gateway.enroll_address"
        ) from error
    return int(port)


def reloading_credentials(
    read: Callable[[], Credential], client_ca: bytes | None
) -> grpc.ServerCredentials:
    """TLS whose certificate is read again with every handshake.

    Args:
        read: Gives the certificate in force; called from gRPC's threads.
        client_ca: Whose client certificates are required, PEM; None to ask for none.
    """
    shown = read()

    def configuration(credential: Credential) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(credential.key, credential.certificate)], root_certificates=client_ca
        )

    def changed() -> Any:  # noqa: ANN401 - None is allowed, whatever grpc's types say
        # None says "as before". A new configuration for each handshake is not only slow: with some
        # two hundred handshakes at once gRPC 1.85 loses count of its references and aborts.
        nonlocal shown
        with lock:
            credential = read()
            if credential == shown:
                return None
            shown = credential
        return configuration(credential)

    lock = threading.Lock()
    return grpc.dynamic_ssl_server_credentials(
        configuration(shown), changed, require_client_authentication=client_ca is not None
    )


def enable_reflection(server: grpc.aio.Server) -> None:
    """Answers reflection, for debugging."""
    from grpc_reflection.v1alpha import reflection

    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
