"""A cloud on this machine for tests: scripted teacher, real gateway, real TLS, enrolled nodes."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from understudy.cloud.app import Gateway, open_gateway
from understudy.cloud.authority import make_request
from understudy.cloud.config import (
    CloudConfig,
    GatewayConfig,
    OperatorConfig,
    QuotaConfig,
    TaskConfig,
)
from understudy.cloud.process import serving
from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.types.decision import RecordKind
from understudy.types.errors import TeacherError, UnderstudyError
from understudy.types.records import EscalationRecord, LabelScore, TeacherLabel
from understudy.wire.v1 import enrollment_pb2, enrollment_pb2_grpc

LABELS = ("refund", "card_lost", "address_change")
TASK = "support"


class ScriptedTeacher:
    """Answers at once, counts calls, and does what a test tells it to do instead."""

    def __init__(self) -> None:
        self.calls: list[list[ScoreRequest]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.away = ""
        self.answer: Callable[[str], str] = lambda _: LABELS[0]

    @property
    def asked(self) -> int:
        """Inputs put to it so far."""
        return sum(len(call) for call in self.calls)

    def info(self) -> TeacherInfo:
        return TeacherInfo(id="scripted", engine="replay", labels=LABELS)

    async def start(self) -> None:
        if self.away:
            raise TeacherError(self.away)

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        import asyncio

        self.calls.append(list(requests))
        if not self.gate.is_set():
            await asyncio.to_thread(self.gate.wait, 20.0)
        if self.failure:
            raise self.failure
        return [label(self.answer(request.text)) for request in requests]

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        return [TeacherError("this teacher only names labels") for _ in requests]

    async def health(self) -> None:
        if self.away:
            raise TeacherError(self.away)

    async def stop(self, drain_s: float = 0.0) -> None:
        del drain_s


def label(best: str = LABELS[0]) -> TeacherLabel:
    others = [name for name in LABELS if name != best]
    return TeacherLabel("scripted", "p1", (best, *others), (-0.1, -3.0, -3.1))


def event_id(unix_s: float | None = None) -> str:
    """A UUIDv7, as an edge makes it."""
    milliseconds = int((time.time() if unix_s is None else unix_s) * 1000)
    data = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    data[6], data[8] = 0x70 | data[6] & 0x0F, 0x80 | data[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(data)))


def record(**changes: Any) -> EscalationRecord:
    """A valid record with a fresh event id."""
    made = EscalationRecord(
        event_id=event_id(),
        task=TASK,
        bundle="b" * 64,
        text="where is my refund",
        top=(LabelScore(LABELS[0], 0.5), LabelScore(LABELS[1], 0.3)),
        confidence=0.5,
        threshold=0.8,
        kind=RecordKind.ESCALATION,
        coin=False,
        audit_rate=0.02,
        propensity=1.0,
        created_unix_s=time.time(),
    )
    return replace(made, **changes)


def config(state_dir: Path, **changes: Any) -> CloudConfig:
    """A cloud on free ports, with room for a test's traffic."""
    gateway = replace(
        GatewayConfig(
            address="127.0.0.1:0", enroll_address="127.0.0.1:0", drain_s=5.0, duties_s=0.05
        ),
        **changes.pop("gateway", {}),
    )
    defaults: dict[str, Any] = {
        "tasks": {TASK: TaskConfig(labels=LABELS)},
        "operator": OperatorConfig(address=""),
        "quotas": QuotaConfig(requests_per_s=0.0, bytes_per_s=0.0, teacher_calls_per_s=0.0),
    }
    return CloudConfig(state_dir=str(state_dir), gateway=gateway, **defaults | changes)


@dataclass(frozen=True)
class Badge:
    """What a node needs to connect."""

    node: str
    ca: bytes
    key: bytes
    certificate: bytes
    trusted_root: bytes = b""

    def channel(self, address: str, **options: int) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        # A pool of its own: channels of different nodes must not share a connection.
        arguments = [("grpc.use_local_subchannel_pool", 1), *options.items()]
        return grpc.secure_channel(address, credentials, arguments)


@dataclass
class Cloud:
    """A running gateway with its scripted teacher."""

    gateway: Gateway
    teacher: ScriptedTeacher
    badges: dict[str, Badge] = field(default_factory=dict)

    @property
    def address(self) -> str:
        assert self.gateway.running is not None
        return self.gateway.running.address

    @property
    def enroll_address(self) -> str:
        assert self.gateway.running is not None
        return self.gateway.running.enroll_address

    def badge(self, node: str = "kiosk-1") -> Badge:
        """Enrols a node the first time it is asked for."""
        if node not in self.badges:
            self.badges[node] = self.enroll(node)
        return self.badges[node]

    def enroll(self, node: str) -> Badge:
        invitation = self.gateway.parts.enrolment.invite(
            node, address=self.address, enroll_address=self.enroll_address
        )
        request = make_request(node)
        answer = enroll(
            invitation.enroll_address,
            invitation.ca_certificate.encode(),
            invitation.token,
            request.certificate,
        )
        return Badge(
            answer.node, answer.ca_certificate, request.key, answer.certificate, answer.trusted_root
        )


def enroll(
    address: str, ca: bytes, token: str, request_pem: bytes
) -> enrollment_pb2.EnrollResponse:
    """One call of Enroll, as a node without a certificate makes it."""
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
        message = enrollment_pb2.EnrollRequest(token=token, certificate_request=request_pem)
        return stub.Enroll(message, timeout=10)


@contextmanager
def running_cloud(
    configuration: CloudConfig, teacher: ScriptedTeacher | None = None, **parts: Any
) -> Iterator[Cloud]:
    """A gateway in a thread, until the block ends."""
    scripted = teacher or ScriptedTeacher()
    with serving(open_gateway(configuration, teacher=scripted, **parts)) as gateway:
        yield Cloud(gateway, scripted)


def wait_until(
    condition: Callable[[], bool], timeout_s: float = 15.0, every_s: float = 0.01
) -> None:
    """Returns as soon as the condition holds; fails when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true in time")
        threading.Event().wait(every_s)
