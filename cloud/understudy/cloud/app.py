"""The cloud's composition root: builds the parts the configuration names, starts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from understudy.cloud.absent import NoAdvice, NoReleases, StillFleet
from understudy.cloud.authority import open_authority
from understudy.cloud.config import CloudConfig, LogBackend, parse_address
from understudy.cloud.enrolment import Enrolment
from understudy.cloud.gateway.answering import Answering
from understudy.cloud.gateway.caller import Doorkeeper
from understudy.cloud.gateway.checks import RecordRules
from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.gateway.layers import Access, Faults, Layer, Limits
from understudy.cloud.gateway.ports import Adviser, Fleet, Releases
from understudy.cloud.gateway.server import (
    INFERENCE,
    SERVICES,
    Faces,
    HealthBoard,
    ServerLimits,
    bind,
    enable_reflection,
    make_enroll_server,
    make_node_server,
    reloading_credentials,
)
from understudy.cloud.gateway.services import (
    ArtifactFace,
    EnrollmentFace,
    FeedbackFace,
    FleetFace,
    InferenceFace,
    Intake,
)
from understudy.cloud.gateway.writer import LogWriter
from understudy.cloud.log import EscalationLog
from understudy.cloud.quotas import Quotas
from understudy.cloud.releases.disk import write_atomic
from understudy.cloud.running import STATE_FILE, RunningCloud, repeating
from understudy.cloud.server_certificate import FileCertificate, IssuedCertificate
from understudy.cloud.state import SharedState, SqliteState
from understudy.cloud.teacher import TeacherEngine
from understudy.cloud.teacher.factory import make_engine
from understudy.types.errors import ConfigError

_REFRESH_S = 2.0
"""How often a process looks at what others have changed: the deny-list, the live watch."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a cloud, built and not started; tests hand in their own."""

    teacher: TeacherEngine
    log: EscalationLog
    state: SharedState
    releases: Releases
    fleet: Fleet
    adviser: Adviser
    enrolment: Enrolment


class Gateway:
    """One gateway process: `async with` starts and stops it."""

    def __init__(self, config: CloudConfig, parts: Parts) -> None:
        self.config = config
        self.parts = parts
        self.running: RunningCloud | None = None
        self._stack = contextlib.AsyncExitStack()
        self._doorkeeper = Doorkeeper(trust_domain=config.gateway.trust_domain)
        self._board = HealthBoard()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Each step registers how it is undone; stopping goes the same way back."""
        stack.callback(self.parts.state.close)
        stack.callback(self.parts.log.close)
        await self._refresh()
        writer = LogWriter(self.parts.log)
        stack.push_async_callback(writer.close)
        gatherer = Gatherer(self.parts.teacher, **asdict(self.config.gather))
        stack.push_async_callback(gatherer.close)
        self.running = await self._serve(stack, gatherer, writer)
        await stack.enter_async_context(repeating(self._refresh, _REFRESH_S))
        await stack.enter_async_context(self._teaching())
        self._write_state_file(stack)

    async def _serve(
        self, stack: contextlib.AsyncExitStack, gatherer: Gatherer, writer: LogWriter
    ) -> RunningCloud:
        gateway = self.config.gateway
        limits = ServerLimits(
            max_message_bytes=gateway.max_message_bytes,
            max_streams=gateway.max_streams,
            reuse_port=gateway.reuse_port,
        )
        quotas = Quotas(**asdict(self.config.quotas), clock=time.monotonic)
        layers: list[Layer] = [Faults(), Access(self._doorkeeper), Limits(quotas)]
        faces = self._faces(gatherer, writer, quotas)
        nodes = make_node_server(faces, self._board, layers, limits)
        newcomers = make_enroll_server(faces, self._board, layers, limits)
        if gateway.reflection:
            enable_reflection(nodes)
        certificate = self._certificate()
        ca = self.parts.enrolment.ca_certificate
        port = bind(nodes, gateway.address, reloading_credentials(certificate.current, ca))
        enroll_port = bind(
            newcomers, gateway.enroll_address, reloading_credentials(certificate.current, None)
        )
        for server in (nodes, newcomers):
            await server.start()
            stack.push_async_callback(server.stop, gateway.drain_s)
        stack.push_async_callback(self._board.drain)
        for service in ("", *SERVICES):
            await self._board.set(service, serving=service != INFERENCE)
        return RunningCloud(
            pid=os.getpid(),
            address=f"{parse_address(gateway.address, '')[0]}:{port}",
            enroll_address=f"{parse_address(gateway.enroll_address, '')[0]}:{enroll_port}",
            operator_address="",
            started_unix_s=time.time(),
        )

    def _faces(self, gatherer: Gatherer, writer: LogWriter, quotas: Quotas) -> Faces:
        gateway, parts = self.config.gateway, self.parts
        rules = RecordRules(self.config.tasks, gateway.max_text_bytes, gateway.clock_skew_s)
        intake = Intake(rules, gateway.max_batch_records)
        answering = Answering(
            gatherer=gatherer, writer=writer, quotas=quotas, tasks=self.config.tasks
        )
        return Faces(
            inference=InferenceFace(intake, answering),
            feedback=FeedbackFace(intake, writer),
            artifact=ArtifactFace(parts.releases),
            fleet=FleetFace(parts.fleet, parts.adviser, check_in_s=gateway.check_in_s),
            enrollment=EnrollmentFace(parts.enrolment, parts.releases),
        )

    def _certificate(self) -> FileCertificate | IssuedCertificate:
        tls = self.config.tls
        if tls.certificate:
            return FileCertificate(self.config.path(tls.certificate), self.config.path(tls.key))
        authority = open_authority(
            self.config.path(tls.directory), trust_domain=self.config.gateway.trust_domain
        )
        names, days = self.config.gateway.names, tls.server_days
        return IssuedCertificate(lambda: authority.issue_server(names, days=days))

    @contextlib.asynccontextmanager
    async def _teaching(self) -> AsyncIterator[None]:
        """The teacher comes up; until then, and if it cannot, everything else is served."""
        await self.parts.teacher.start()
        await self._board.set(INFERENCE, serving=True)
        try:
            yield
        finally:
            await self.parts.teacher.stop(self.config.gateway.drain_s)

    async def _refresh(self) -> None:
        """Reads what other processes may have changed."""
        self._doorkeeper.denied = await asyncio.to_thread(self.parts.enrolment.denied)

    def _write_state_file(self, stack: contextlib.AsyncExitStack) -> None:
        if self.running is None:
            return
        path = self.config.path(STATE_FILE)
        write_atomic(path, json.dumps(asdict(self.running), indent=1).encode())
        stack.callback(path.unlink, missing_ok=True)


def open_gateway(
    config: CloudConfig,
    *,
    teacher: TeacherEngine | None = None,
    releases: Releases | None = None,
    fleet: Fleet | None = None,
    adviser: Adviser | None = None,
) -> Gateway:
    """A gateway with the parts that the configuration names; given ones replace its own.

    Raises:
        ConfigError: If a person must edit the configuration.
    """
    Path(config.state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    state = SqliteState(config.path("state.db"))
    return Gateway(
        config,
        Parts(
            teacher=teacher or _make_teacher(config),
            log=open_log(config),
            state=state,
            releases=releases or _open_releases(config),
            fleet=fleet or StillFleet(),
            adviser=adviser or NoAdvice(),
            enrolment=open_enrolment(config, state),
        ),
    )


def open_log(config: CloudConfig) -> EscalationLog:
    """The escalation log that the configuration names.

    Raises:
        ConfigError: If a person must edit the configuration.
    """
    match config.log.backend:
        case LogBackend.SQLITE:
            from understudy.cloud.log.sqlite import SqliteLog

            return SqliteLog(config.path(config.log.path))
        case LogBackend.REDIS:
            raise ConfigError("log.backend: 'redis' is not built in yet")


def open_enrolment(config: CloudConfig, state: SharedState) -> Enrolment:
    """The enrolment desk of a cloud, for the gateway and for `understudy node`."""
    authority = open_authority(
        config.path(config.tls.directory), trust_domain=config.gateway.trust_domain
    )
    return Enrolment(
        authority,
        state,
        trust_domain=config.gateway.trust_domain,
        node_days=config.tls.node_days,
        now=time.time,
    )


def _make_teacher(config: CloudConfig) -> TeacherEngine:
    if config.serve is None:
        return make_engine(config.teacher)
    from understudy.cloud.serve_client import ServeTeacher

    return ServeTeacher(config.teacher, config.serve)


def _open_releases(config: CloudConfig) -> Releases:
    folder = config.path(config.releases_dir)
    if not (folder / "metadata").is_dir():
        return NoReleases()
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(folder).store()
