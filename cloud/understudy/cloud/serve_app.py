"""The teacher as a Ray Serve application.

`TeacherDeployment` is a plain class that runs as well without Ray; `Replica` is what Serve runs. A
call carries a whole batch as plain dictionaries; each input keeps its deadline and its own error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.serve_render import deployment_options
from understudy.cloud.teacher import ScoreRequest, TeacherEngine
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.payload import (
    Plain,
    generate_request_from_plain,
    result_to_plain,
    score_request_from_plain,
)
from understudy.cloud.teacher.spec import Engine, TeacherSpec, spec_to_plain
from understudy.cloud.tracing import Tracing
from understudy.types.config import build_config
from understudy.types.errors import TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

Scored = TeacherLabel | UnderstudyError


class TeacherDeployment:
    """An engine behind methods that take and give plain data.

    Args:
        spec: The teacher, as `spec_to_plain` writes it.
        drain_s: What runs when it stops may finish for so long.
    """

    def __init__(self, spec: Plain, drain_s: float = 30.0) -> None:
        self._spec = build_config(spec, TeacherSpec, source="the teacher's spec")
        self._drain_s = drain_s
        self._engine: TeacherEngine | None = None
        self._tracing: Tracing | None = None

    async def start(self) -> None:
        """Loads the model.

        Raises:
            ConfigError: If a person must edit the configuration.
        """
        engine = self.make_engine(self._spec)
        await asyncio.wait_for(engine.start(), self._spec.start_timeout_s)
        self._engine = engine
        self._tracing = Tracing.of_environment(os.environ, "understudy-teacher")

    def make_engine(self, spec: TeacherSpec) -> TeacherEngine:
        """The engine of this replica."""
        return make_engine(spec)

    async def score_labels(self, payload: list[Plain]) -> list[Plain]:
        """Requests and results as `payload` writes them, same order."""
        requests = [score_request_from_plain(plain) for plain in payload]
        if self._tracing is None:
            return [result_to_plain(result) for result in await self.score(requests)]
        with self._tracing.each("teacher.score_labels", [one.trace for one in requests]) as traces:
            traced = [replace(one, trace=at) for one, at in zip(requests, traces, strict=True)]
            return [result_to_plain(result) for result in await self.score(traced)]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Scored]:
        """The engine's answers."""
        return await self._ready().score_labels(requests)

    async def generate(self, payload: list[Plain]) -> list[Plain]:
        """As `score_labels`, for continuations."""
        requests = [generate_request_from_plain(plain) for plain in payload]
        return [result_to_plain(result) for result in await self._ready().generate(requests)]

    async def info(self) -> Plain:
        """`TeacherInfo`, field by field."""
        info = self._ready().info()
        return {
            "id": info.id,
            "engine": info.engine,
            "labels": list(info.labels),
            "generates": info.generates,
        }

    async def check_health(self) -> None:
        """Called by Serve; a replica that raises here is replaced.

        Raises:
            TeacherError: If the engine cannot work.
        """
        await self._ready().health()

    async def stop(self) -> None:
        """Finishes what runs and frees the model; safe to repeat."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop(self._drain_s)
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    def _ready(self) -> TeacherEngine:
        if self._engine is None:
            raise TeacherError("the teacher has not been started")
        return self._engine


class Replica(TeacherDeployment):
    """Serve awaits the constructor, and the destructor after draining."""

    async def __init__(self, spec: Plain, drain_s: float = 30.0) -> None:  # type: ignore[misc]  # awaited by Serve
        super().__init__(spec, drain_s)
        await self.start()
        self._score_one = _gathered(self._ready(), self._spec)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Scored]:
        """Calls of several gateways share a forward pass."""
        if self._score_one is None:
            return await super().score(requests)
        return await asyncio.gather(*map(self._score_one, requests))

    async def __del__(self) -> None:
        # Also called for a replica whose constructor failed half-way.
        if hasattr(self, "_engine"):
            await self.stop()


def build(args: Plain) -> Any:  # noqa: ANN401 - ray has no types
    """What a Serve configuration names as `import_path`.

    Args:
        args: `teacher` and `serve`: the sections of our YAML of these names.

    Raises:
        ConfigError: If a key is unknown.
    """
    spec = build_config(args.get("teacher", {}), TeacherSpec, source="args.teacher")
    options = build_config(args.get("serve", {}), ServeOptions, source="args.serve")
    return application(spec, options)


def application(spec: TeacherSpec, options: ServeOptions, deployment: type[Any] = Replica) -> Any:  # noqa: ANN401 - ray has no types
    """The Serve application of a teacher; `deployment` is the class a replica runs."""
    from ray import serve

    wrapped = serve.deployment(**deployment_options(spec, options))(deployment)
    return wrapped.bind(spec_to_plain(spec), options.drain_s)


def _gathered(
    engine: TeacherEngine, spec: TeacherSpec
) -> Callable[[ScoreRequest], Awaitable[Scored]] | None:
    """Serve's batching; None for engines that batch by themselves, or have nothing to gain."""
    if spec.engine is not Engine.TRANSFORMERS:
        return None
    from ray import serve

    async def score(requests: list[ScoreRequest]) -> list[Scored]:
        return await engine.score_labels(requests)

    batched: Callable[[ScoreRequest], Awaitable[Scored]] = serve.batch(
        max_batch_size=spec.max_batch, batch_wait_timeout_s=spec.batch_wait_s
    )(score)
    return batched
