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
from understudy.types.errors import (
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    UnderstudyError,
)
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import NodeStatus

if TYPE_CHECKING:
    from understudy.edge.transport import CloudLink

KNOWN = "replay, transformers:DIR, vllm:MODEL or gateway:HOST:PORT"
ASK_S = 60.0
REACH_S = 5.0


def make_teacher(
    name: str,
    rows: Sequence[Row],
    labels: tuple[str, ...],
    *,
    node: Path | None,
    task: str = "classify",
) -> TeacherEngine:
    """The teacher of that name, not started.

    Args:
        name: As on the command line.
        rows: Everything that will be asked, for `replay`.
        labels: Labels to choose from, for a model that names classes in words.
        node: Folder of an enrolled node, for a gateway that asks for certificates.
        task: What a gateway is asked about.

    Raises:
        ConfigError: If there is no such teacher.
    """
    kind, _, where = name.partition(":")
    if kind == "replay" and not where:
        return replay_teacher(rows)
    if kind in {"transformers", "vllm"} and where:
        return _model_teacher(kind, where, labels)
    if kind == "gateway" and where:
        return GatewayTeacher(_link(where, node), labels, task)
    raise ConfigError(f"--teacher must be {KNOWN}, not '{name}'")


def check_labels(teacher: TeacherInfo, seed: tuple[str, ...]) -> None:
    """Passes if a model with a head of its own can say at least one label of the seed's.

    Raises:
        ConfigError: If not: names were lost where the model was saved, or it is another one's.
    """
    if teacher.engine != "transformers" or set(teacher.labels) & set(seed):
        return
    raise ConfigError(
        f"the teacher's labels ({_some(teacher.labels)}) are none of the seed's ({_some(seed)}):"
        " write the same names into `id2label` of the model's config.json"
    )


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join((*labels[:3], "...") if len(labels) > 3 else labels)


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
        """Checks in as a node: sees that somebody listens, lets us in, and knows the task.

        Raises:
            ConfigError: If not; a simulation of refusals would look like one of a bad student.
        """
        status = NodeStatus(task=self._task, bundle="")
        try:
            await asyncio.to_thread(self._link.check_in, status, REACH_S)
        except (LinkDownError, DeadlineError) as error:
            raise ConfigError(
                f"--teacher gateway:{self._link.address}: nobody answers there; start the cloud"
                " with `understudy cloud up`, or mend the address; a cloud with certificates"
                " answers enrolled nodes only: --node FOLDER"
            ) from error
        except UnderstudyError as error:
            raise ConfigError(f"--teacher gateway:{self._link.address}: {error}") from error

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
    from understudy.cloud.teacher.head import FACTS, head_spec
    from understudy.cloud.teacher.spec import Engine, Runner, TeacherSpec

    engine = Engine(kind)
    if engine is Engine.VLLM:
        return make_engine(
            TeacherSpec(engine=engine, model=where, runner=Runner.GENERATE, labels=labels)
        )
    folder = Path(where).expanduser()
    if (folder / FACTS).exists():
        return make_engine(head_spec(folder))
    return make_engine(TeacherSpec(model=where))


def _link(address: str, node: Path | None) -> CloudLink:
    from understudy.edge.config import TlsFiles
    from understudy.edge.credentials import read_credentials
    from understudy.edge.identity import CA, CERTIFICATE, KEY
    from understudy.edge.transport import CloudLink

    try:
        if node is None:
            return CloudLink(address)
        files = TlsFiles(
            ca=str(node / CA), certificate=str(node / CERTIFICATE), key=str(node / KEY)
        )
        return CloudLink(address, read_credentials(files))
    except ConfigError as error:
        raise ConfigError(
            f"--teacher gateway:{address}: {error}; --node names the folder that"
            " `understudy node enroll` made"
        ) from error
