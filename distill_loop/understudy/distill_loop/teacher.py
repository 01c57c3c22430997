"""The night's view of a teacher: blocking, in batches, every answer kept by content.

The night never needs a live teacher for rows whose label is in the log. What it does ask is
counted, because every answer of a teacher's is paid for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec

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


class _Kept(msgspec.Struct, frozen=True):
    """One paid answer: a label, or a continuation."""

    key: str
    night: str
    label: TeacherLabel | None = None
    text: str = ""


class KeptTeacher:
    """A teacher whose answers are paid for once: each is on disk before the night goes on.

    A night that was killed and begins anew asks only for what it has not heard. An answer that did
    not come is not kept, and asked for again.

    Args:
        teacher: Who is asked.
        path: File of the answers, one JSON object a line.
        night: Name of the night that pays.
        batch: Texts asked for at a time; as many answers are lost at most.
    """

    def __init__(self, teacher: NightTeacher, path: Path, night: str, batch: int = 64) -> None:
        self._teacher, self._path, self._night, self._batch = teacher, path, night, batch
        self._known = {kept.key: kept for kept in _read(path)}

    @property
    def id(self) -> str:
        """The teacher's own id."""
        return self._teacher.id

    @property
    def calls(self) -> int:
        """Answers that this night has paid for, those before a crash included."""
        return sum(kept.night == self._night for kept in self._known.values())

    def label(self, texts: Sequence[str], labels: tuple[str, ...]) -> list[TeacherLabel | None]:
        """As the teacher says, or has said before to the same text and labels."""
        keys = [self._key("label", text, *labels) for text in texts]
        fresh = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        for some in _batches(list(fresh.items()), self._batch):
            answers = self._teacher.label([text for _, text in some], labels)
            self._keep(
                _Kept(key, self._night, label=answer)
                for (key, _), answer in zip(some, answers, strict=True)
                if answer is not None
            )
        return [self._known[key].label if key in self._known else None for key in keys]

    def write(self, prompts: Sequence[str]) -> list[str]:
        """As the teacher writes, or has written before to the same prompt."""
        keys = [self._key("write", prompt) for prompt in prompts]
        fresh = {k: p for k, p in zip(keys, prompts, strict=True) if k not in self._known}
        written = self._teacher.write(list(fresh.values())) if fresh else []
        pairs = zip(fresh, written, strict=False)
        self._keep(_Kept(key, self._night, text=text) for key, text in pairs if text)
        return [self._known[key].text if key in self._known else "" for key in keys]

    def _key(self, *parts: str) -> str:
        return hashlib.sha256("\0".join((self.id, *parts)).encode()).hexdigest()

    def _keep(self, answers: Iterable[_Kept]) -> None:
        fresh = list(answers)
        with self._path.open("ab") as file:
            file.write(b"".join(msgspec.json.encode(kept) + b"\n" for kept in fresh))
            file.flush()
            os.fsync(file.fileno())
        self._known |= {kept.key: kept for kept in fresh}


def _read(path: Path) -> Iterator[_Kept]:
    """Answers that are whole; a line that a crash cut short is asked for again."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        # What is appended next must not join the torn line.
        path.write_bytes(data[: data.rfind(b"\n") + 1])
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        yield msgspec.json.decode(line, type=_Kept)


def _batches(items: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    return (items[start : start + size] for start in range(0, len(items), size))
