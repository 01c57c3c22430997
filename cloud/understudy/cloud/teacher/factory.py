"""From a spec to an engine: the one place that knows them all."""

from __future__ import annotations

from pathlib import Path

from understudy.cloud.teacher import TeacherEngine
from understudy.cloud.teacher.spec import Engine, Runner, TeacherSpec
from understudy.types.errors import ConfigError


def make_engine(spec: TeacherSpec) -> TeacherEngine:
    """An engine that has not been started.

    Raises:
        ConfigError: If the spec misses what its engine needs, or an extra is not installed.
    """
    match spec.engine:
        case Engine.TRANSFORMERS:
            from understudy.cloud.teacher.transformers_engine import TransformersEngine

            return TransformersEngine(spec)
        case Engine.REPLAY:
            from understudy.cloud.teacher.replay import ReplayEngine, read_recordings

            if not spec.recordings:
                raise ConfigError("teacher.recordings: name the file of recorded answers")
            path = Path(spec.recordings)
            return ReplayEngine(read_recordings(path), name=path.stem)
        case Engine.VLLM if spec.runner is Runner.CLASSIFY:
            from understudy.cloud.teacher.vllm_pooling import VllmPoolingEngine

            return VllmPoolingEngine(spec)
        case Engine.VLLM:
            from understudy.cloud.teacher.vllm_engine import VllmEngine

            return VllmEngine(spec)
        case Engine.OPENAI:
            from understudy.cloud.teacher.openai_engine import OpenAIEngine

            return OpenAIEngine(spec)
