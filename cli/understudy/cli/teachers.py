"""Teachers a simulation can name: recordings, a model, vLLM, a running gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.rows import Row
from understudy.cloud.teacher import (
    GenerateRequest,
    Generation,
    ScoreRequest,
    TeacherEngine,
    TeacherInfo,
)
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import ConfigError, InvalidValueError, UnderstudyError
from understudy.types.records import EscalationRecord, TeacherLabel

if TYPE_CHECKING:
    from understudy.edge.transport import CloudLink

KNOWN = "replay, transformers:DIR, vllm:MODEL or gateway:HOST:PORT"
ASK_S = 60.0
REACH_S = 5.0


def make_teacher(
    name: str, rows: Sequence[Row], labels: tuple[str, ...], *, node: Path | None
) -> TeacherEngine:
    """The teacher of that name, not started.

    Args:
        name: As on the command line.
        rows: Everything that will be asked, for `replay`.
        labels: Labels to choose from, for a model that names classes in words.
        node: Folder of an enrolled node, for a gateway that is not on this machine.

    Raises:
        ConfigError: If there is no such teacher.
    """
    kind, _, where = name.partition(":")
    if kind == "replay" and not where:
        return replay_teacher(rows)
    if kind in {"transformers", "vllm"} and where:
        return _model_teacher(kind, where, labels)
    if kind == "gateway" and where:
        return GatewayTeacher(_link(where, node), labels)
    raise ConfigError(f"--teacher must be {KNOWN}, not '{name}'")


def replay_teacher(rows: Sequence[Row]) -> TeacherEngine:
    """A teacher that says what the rows say it said; the gold label where nothing was recorded."""
    from understudy.cloud.teacher.replay import ReplayEngine

    answers = {row.text: dict(row.teacher_probs) or {row.recorded: 1.0} for row in rows}
    return ReplayEngine({text: said for text, said in answers.items() if "" not in said})


class GatewayTeacher:
    """A `TeacherEngine` that asks a running gateway, as a node would."""

    def __init__(self, link: CloudLink, labels: tuple[str, ...], task: str = "classify") -> None:
        self._link, self._labels, self._task = link, labels, task

    def info(self) -> TeacherInfo:
        return TeacherInfo(
            id=f"gateway:{self._link.address}", engine="gateway", labels=self._labels
        )

    async def start(self) -> None:
        """Sees that somebody listens there; the link itself connects at its first call.

        Raises:
            ConfigError: If nobody does.
        """
        host, _, port = self._link.address.rpartition(":")
        try:
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"--teacher gateway:{self._link.address}: nobody answers there; start the cloud"
                " with `understudy cloud up`, or mend the address"
            ) from error

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        records = [self._record(request) for request in requests]
        try:
            return await asyncio.to_thread(self._link.predict_batch, records, ASK_S)
        except UnderstudyError as error:
            return [error] * len(requests)

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        return [InvalidValueError("a gateway answers labels only")] * len(requests)

    async def health(self) -> None:
        """Known when it is asked."""

    async def stop(self, drain_s: float = 0.0) -> None:
        del drain_s
        await asyncio.to_thread(self._link.close)

    def _record(self, request: ScoreRequest) -> EscalationRecord:
        from understudy.edge.ids import new_request_id

        return EscalationRecord(
            event_id=new_request_id(),
            task=self._task,
            bundle="",
            text=request.text,
            top=(),
            confidence=0.0,
            threshold=NEVER_KEEP,
            kind=RecordKind.ESCALATION,
            coin=False,
            audit_rate=0.0,
            propensity=1.0,
            created_unix_s=time.time(),
        )


def _model_teacher(kind: str, where: str, labels: tuple[str, ...]) -> TeacherEngine:
    from understudy.cloud.teacher.factory import make_engine
    from understudy.cloud.teacher.spec import Engine, Runner, TeacherSpec

    engine = Engine(kind)
    if engine is Engine.VLLM:
        return make_engine(
            TeacherSpec(engine=engine, model=where, runner=Runner.GENERATE, labels=labels)
        )
    head = where if (Path(where) / "head.json").exists() else ""
    if head:
        return make_engine(TeacherSpec(head=head))
    return make_engine(TeacherSpec(model=where))


def _link(address: str, node: Path | None) -> CloudLink:
    from understudy.edge.config import TlsFiles
    from understudy.edge.credentials import read_credentials
    from understudy.edge.identity import CA, CERTIFICATE, KEY
    from understudy.edge.transport import CloudLink

    if node is None:
        return CloudLink(address)
    files = TlsFiles(ca=str(node / CA), certificate=str(node / CERTIFICATE), key=str(node / KEY))
    return CloudLink(address, read_credentials(files))
