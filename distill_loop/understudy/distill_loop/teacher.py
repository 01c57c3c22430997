"""The night's view of a teacher: blocking, in batches, every answer kept by content.

The night never needs a live teacher for rows whose label is in the log. What it does ask is
counted, because every answer of a teacher's is paid for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.types.errors import UnderstudyError
from understudy.types.records import TeacherLabel

T = TypeVar("T")


class NightTeacher(Protocol):
    """What the night asks of a teacher."""

    @property
    def id(self) -> str:
        """Engine, model and revision in one string."""
        ...

    def label(self, texts: Sequence[str], labels: tuple[str, ...]) -> list[TeacherLabel | None]:
        """A distribution for each text, same order; None where it could not say.

        Args:
            texts: The inputs.
            labels: Labels to choose from; empty for all the teacher knows.
        """
        ...

    def write(self, prompts: Sequence[str]) -> list[str]:
        """A continuation for each prompt, same order, empty where it could not; [] if it cannot."""
        ...


class EngineTeacher:
    """A `TeacherEngine` on an event loop of its own; use as a context manager."""

    def __init__(self, engine: TeacherEngine, batch: int = 64) -> None:
        self._engine, self._batch = engine, batch
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="night-teacher")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._engine.start())
        except BaseException:
            # A teacher that cannot start must not keep the process alive by its thread.
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._wait(self._engine.stop())
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def id(self) -> str:
        """The engine's own id."""
        return self._engine.info().id

    def label(self, texts: Sequence[str], labels: tuple[str, ...]) -> list[TeacherLabel | None]:
        """Labels in batches; an answer that is an error counts as none."""
        found: list[TeacherLabel | None] = []
        for start in range(0, len(texts), self._batch):
            requests = [
                ScoreRequest(text=text, labels=labels, priority=10)
                for text in texts[start : start + self._batch]
            ]
            answers = self._wait(self._engine.score_labels(requests))
            found += [None if isinstance(a, UnderstudyError) else a for a in answers]
        return found

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Continuations, if the engine generates."""
        if not self._engine.info().generates or not prompts:
            return []
        requests = [GenerateRequest(prompt=p, temperature=0.9, priority=10) for p in prompts]
        answers = self._wait(self._engine.generate(requests))
        return ["" if isinstance(a, UnderstudyError) else a.text for a in answers]

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()
