"""A teacher whose troubles a test decides: it is held, it dies, it tells what it saw.

It runs in a replica's process, so it is told what to do through files in a folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from understudy.cloud.serve_app import Replica
from understudy.cloud.teacher import (
    GenerateRequest,
    Generation,
    ScoreRequest,
    TeacherEngine,
    TeacherInfo,
)
from understudy.cloud.teacher.distribution import expired
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.types.errors import InvalidValueError, TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

HELD = "held"
DEAD = "dead"
SEEN = "seen"


class TroubledEngine:
    """A `TeacherEngine` that always says `yes`, unless the folder says otherwise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def info(self) -> TeacherInfo:
        """Its id names the process it runs in."""
        return TeacherInfo(id=f"troubled:{os.getpid()}", engine="replay", labels=("yes", "no"))

    async def start(self) -> None:
        """A new engine is well again."""
        (self._folder / DEAD).unlink(missing_ok=True)

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """Waits while the file `held` exists, then drops what has expired."""
        while (self._folder / HELD).exists():  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(0.01)
        return [self._label(request) for request in requests]

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """It only labels."""
        return [InvalidValueError("this teacher cannot generate")] * len(requests)

    async def health(self) -> None:
        """Fails once the file `dead` exists."""
        if (self._folder / DEAD).exists():
            raise TeacherError("the engine is dead")

    async def stop(self, drain_s: float = 0.0) -> None:
        """Nothing to free."""
        del drain_s

    def _label(self, request: ScoreRequest) -> TeacherLabel | UnderstudyError:
        late = expired(request)
        if late is not None:
            return late
        with (self._folder / SEEN).open("a") as file:
            file.write(f"{request.text}\n")
        return TeacherLabel(self.info().id, "hash", ("yes", "no"), (-0.1, -2.4))


class TroubledReplica(Replica):
    """A replica around it; the folder comes as the spec's `recordings`."""

    def make_engine(self, spec: TeacherSpec) -> TeacherEngine:
        """The troubled one."""
        return TroubledEngine(Path(spec.recordings))
