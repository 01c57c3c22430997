"""The cloud's composition root: puts the parts together, starts them, stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Self

from understudy.cloud.config import CloudConfig, parse_address
from understudy.cloud.duties import Duties, Labeller
from understudy.cloud.gateway.answering import Answering
from understudy.cloud.gateway.caller import Doorkeeper
from understudy.cloud.gateway.checks import RecordRules
from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.gateway.layers import Access, Faults, Layer, Limits, Traces
from understudy.cloud.gateway.ports import Fleet, Releases
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
from understudy.cloud.late_releases import LateReleases
from understudy.cloud.log import EscalationLog
from understudy.cloud.metrics import Metrics
from understudy.cloud.operator import operator_routes, serve_operator
from understudy.cloud.operator_state import OperatorState
from understudy.cloud.parts import Parts, open_certificate, open_enrolment, open_log, open_parts
from understudy.cloud.quotas import Quotas
from understudy.cloud.rollout import Rollout
from understudy.cloud.rollout_control import RolloutButtons
from understudy.cloud.rollout_metrics import RolloutSurvey
from understudy.cloud.running import STATE_FILE, RunningCloud, repeating
from understudy.cloud.supervision import TeacherSupervisor
from understudy.cloud.teacher import TeacherEngine
from understudy.cloud.teacher.distribution import prompt_hash
from understudy.cloud.teacher.spec import spec_to_plain
from understudy.cloud.tracing import Tracing, current_traceparent, otlp_exporter
from understudy.cloud.usage import UsageExchange
from understudy.cloud.watch import ContractWatch, SharedAdvice
from understudy.files import write_atomic
from understudy.types.errors import LinkError

__all__ = ["Gateway", "open_enrolment", "open_gateway", "open_log"]

_REFRESH_S = 2.0
"""How often a process looks at what others have changed: the deny-list, the live watch."""
_USAGE_S = 0.5
_WATCH_REST_S = 0.005
"""How often processes tell each other what nodes used."""


class Gateway:
    """One gateway process: `async with` starts and stops it.

    Attributes:
        config: What the operator said.
        parts: What it is made of.
        running: Where it is; None while it is not.
    """

    def __init__(self, config: CloudConfig, parts: Parts) -> None:
        self.config = config
        self.parts = parts
        self.running: RunningCloud | None = None
        self.metrics = Metrics()
        self._stack = contextlib.AsyncExitStack()
        self._board = HealthBoard()
        self._doorkeeper = Doorkeeper(trust_domain=config.gateway.trust_domain)
        self._quotas = Quotas(**asdict(config.quotas), clock=time.monotonic)
        self._usage = UsageExchange(parts.board)
        self._advice = SharedAdvice(parts.state)
        self._gatherer = Gatherer(parts.teacher, self.metrics, **asdict(config.gather))
        self._writer = LogWriter(parts.log)
        self._supervisor = TeacherSupervisor(
            parts.teacher, self._tell_teacher, drain_s=config.gateway.drain_s
        )

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.running = None

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Each step registers how it is undone; stopping goes the same way back."""
        stack.callback(self.parts.state.close)
        stack.callback(self.parts.log.close)
        stack.callback(self.parts.fleet.close)
        stack.callback(self.parts.board.close)
        stack.push_async_callback(self._writer.close)
        stack.push_async_callback(self._gatherer.close)
        if self.parts.cache is not None:
            stack.push_async_callback(self.parts.cache.close)
        await self._refresh()
        if self._quotas.shared:
            await self._share_usage()  # so that what others report from now on is heard
        tracing = self._open_tracing(stack)
        self.running = await self._listen(stack, tracing)
        await stack.enter_async_context(repeating(self._refresh, _REFRESH_S))
        if self._quotas.shared:
            await stack.enter_async_context(repeating(self._share_usage, _USAGE_S))
        await self._start_operator(stack)
        wait = self.config.gateway.wait_for_teacher
        await stack.enter_async_context(self._supervisor.running(wait=wait))
        await stack.enter_async_context(self._duties())
        self._write_state_file(stack)

    async def _listen(
        self, stack: contextlib.AsyncExitStack, tracing: Tracing | None
    ) -> RunningCloud:
        gateway = self.config.gateway
        limits = ServerLimits(
            max_message_bytes=gateway.max_message_bytes,
            max_streams=gateway.max_streams,
            reuse_port=gateway.reuse_port,
        )
        faces, layers = self._faces(tracing), self._layers(tracing)
        nodes = make_node_server(faces, self._board, layers, limits)
        newcomers = make_enroll_server(faces, self._board, layers, limits)
        if gateway.reflection:
            enable_reflection(nodes)
        certificate, ca = open_certificate(self.config), self.parts.enrolment.ca_certificate
        port = bind(nodes, gateway.address, reloading_credentials(certificate, ca))
        enroll = reloading_credentials(certificate, None)
        enroll_port = bind(newcomers, gateway.enroll_address, enroll)
        for server in (nodes, newcomers):
            await server.start()
            stack.push_async_callback(server.stop, gateway.drain_s)
        for service in ("", *SERVICES):
            await self._board.set(service, serving=service != INFERENCE)
        stack.push_async_callback(self._board.drain)
        return RunningCloud(
            pid=os.getpid(),
            address=f"{parse_address(gateway.address, '')[0]}:{port}",
            enroll_address=f"{parse_address(gateway.enroll_address, '')[0]}:{enroll_port}",
            operator_address="",
            started_unix_s=time.time(),
        )

    def _layers(self, tracing: Tracing | None) -> list[Layer]:
        layers: list[Layer] = [
            Faults(self.metrics),
            Access(self._doorkeeper),
            Limits(self._quotas, self.metrics, self.config.gateway.max_message_bytes),
        ]
        if tracing:
            layers.insert(1, Traces(tracing))
        return layers

    def _faces(self, tracing: Tracing | None) -> Faces:
        gateway, parts, tasks = self.config.gateway, self.parts, self.config.tasks
        rules = RecordRules(tasks, gateway.max_text_bytes, gateway.clock_skew_s)
        intake = Intake(rules, gateway.max_batch_records, self.metrics)
        wording = prompt_hash(spec_to_plain(self.config.teacher))
        answering = Answering(
            gatherer=self._gatherer,
            writer=self._writer,
            quotas=self._quotas,
            tasks=tasks,
            observer=self.metrics,
            cache=parts.cache,
            # The same model asked in other words is another teacher to the cache.
            teacher_id=lambda: f"{parts.teacher.info().id} {wording}",
        )
        trace = current_traceparent if tracing else str
        return Faces(
            inference=InferenceFace(intake, answering, trace),
            feedback=FeedbackFace(intake, self._writer),
            artifact=ArtifactFace(parts.releases),
            fleet=FleetFace(
                parts.fleet, self._advice, self.metrics, tasks=tasks, check_in_s=gateway.check_in_s
            ),
            enrollment=EnrollmentFace(parts.enrolment, parts.releases),
        )

    @contextlib.asynccontextmanager
    async def _duties(self) -> AsyncIterator[None]:
        parts, tasks = self.parts, self.config.tasks
        contracts = {name: task.contract for name, task in tasks.items()}
        # Without its rests the watch takes the interpreter from answers for a tenth of a second.
        watch = ContractWatch(
            parts.log,
            parts.state,
            parts.releases,
            contracts,
            now=time.time,
            rest=lambda: time.sleep(_WATCH_REST_S),
        )
        duties = Duties(
            log=parts.log,
            state=parts.state,
            watch=watch,
            labeller=Labeller(parts.log, parts.teacher, self.config.log.labelling, self.metrics),
            labels=lambda task: tasks[task].labels if task in tasks else (),
            retention_s=self.config.log.retention_days * 86_400.0,
            now=time.time,
        )
        async with repeating(duties.turn, self.config.gateway.duties_s):
            yield
        await duties.close()

    async def _start_operator(self, stack: contextlib.AsyncExitStack) -> None:
        operator = self.config.operator
        if not operator.address or self.running is None:
            return
        from understudy.cloud.console.routes import console_routes

        shown = OperatorState(self.config, self.parts, self.metrics, self._advice)
        routes = [
            *operator_routes(metrics=self._render_metrics, ready=self._trouble),
            *console_routes(
                state=shown.read,
                tasks=tuple(self.config.tasks),
                control=self._buttons,
                token=operator.token,
                reports=self.config.path(operator.reports_dir),
            ),
        ]
        address = await stack.enter_async_context(serve_operator(operator.address, routes))
        self.running = replace(self.running, operator_address=address)

    def _buttons(self, task: str) -> RolloutButtons | None:
        fleet = self.parts.fleet
        return RolloutButtons(fleet, task) if isinstance(fleet, Rollout) else None

    async def _render_metrics(self) -> bytes:
        try:
            log = await asyncio.to_thread(self.parts.log.stats)
        except LinkError:
            log = None
        return self.metrics.render(
            queue=self._gatherer.waiting,
            teacher_up=self._supervisor.up,
            log=log,
            standings=self._advice.standings,
            rollouts=await asyncio.to_thread(self._rollouts),
        )

    def _rollouts(self) -> RolloutSurvey:
        """Every rollout and every node, as they stand; nothing where the fleet keeps no book."""
        fleet, releases, now = self.parts.fleet, self.parts.releases, time.time()
        expiries = releases.expiries() if isinstance(releases, LateReleases) else {}
        if not isinstance(fleet, Rollout):
            return RolloutSurvey(expiries=expiries)
        return RolloutSurvey(tuple(fleet.rollouts(now)), fleet.nodes_by_state(now), expiries)

    async def _trouble(self) -> str:
        """Why no calls can be taken; a teacher that is away is no reason, weights still flow."""
        try:
            await asyncio.to_thread(self.parts.log.find, "", "")
        except LinkError as error:
            return str(error)
        return ""

    async def _refresh(self) -> None:
        """Reads what other processes may have changed."""
        self._doorkeeper.denied = await asyncio.to_thread(self.parts.enrolment.denied)
        await asyncio.to_thread(self._advice.refresh)

    async def _share_usage(self) -> None:
        """What a node uses of one process counts in all of them."""
        used = self._quotas.take_usage()
        self._quotas.charge(await asyncio.to_thread(self._usage.step, used))

    async def _tell_teacher(self, up: bool) -> None:  # noqa: FBT001 - the supervisor's one word
        await self._board.set(INFERENCE, serving=up)

    def _open_tracing(self, stack: contextlib.AsyncExitStack) -> Tracing | None:
        if not self.config.tracing:
            return None
        tracing = Tracing(otlp_exporter(self.config.tracing))
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        return tracing

    def _write_state_file(self, stack: contextlib.AsyncExitStack) -> None:
        if self.running is None:
            return
        path = self.config.path(STATE_FILE)
        write_atomic(path, json.dumps(asdict(self.running), indent=1).encode(), mode=0o644)
        stack.callback(path.unlink, missing_ok=True)


def open_gateway(
    config: CloudConfig,
    *,
    teacher: TeacherEngine | None = None,
    releases: Releases | None = None,
    fleet: Fleet | None = None,
    log: EscalationLog | None = None,
) -> Gateway:
    """A gateway with the parts that the configuration names; given ones replace its own.

    Raises:
        ConfigError: If a person must edit the configuration.
    """
    parts = open_parts(config, teacher=teacher, releases=releases, fleet=fleet, log=log)
    return Gateway(config, parts)
