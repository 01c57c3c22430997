"""The teacher's port: what every engine promises. Engines live in the modules beside this one.

No ray, vllm or torch type crosses it. An engine answers each request of a batch on its own: a label
or the error that belongs to that request, so one bad input never spoils its neighbours.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from understudy.types.errors import UnderstudyError
from understudy.types.records import TeacherLabel

if TYPE_CHECKING:
    from understudy.cloud.teacher.encoder import SentenceEncoder as SentenceEncoder
    from understudy.cloud.teacher.factory import make_engine as make_engine
    from understudy.cloud.teacher.head import (
        LinearHead as LinearHead,
    )
    from understudy.cloud.teacher.head import (
        fit_head as fit_head,
    )
    from understudy.cloud.teacher.head import (
        fit_linear_teacher as fit_linear_teacher,
    )
    from understudy.cloud.teacher.head import (
        head_spec as head_spec,
    )
    from understudy.cloud.teacher.head import (
        load_head as load_head,
    )
    from understudy.cloud.teacher.head import (
        save_head as save_head,
    )
    from understudy.cloud.teacher.replay import ReplayEngine as ReplayEngine
    from understudy.cloud.teacher.spec import (
        PACKAGED_MINILM as PACKAGED_MINILM,
    )
    from understudy.cloud.teacher.spec import (
        PromptOptions as PromptOptions,
    )
    from understudy.cloud.teacher.spec import (
        TeacherSpec as TeacherSpec,
    )
    from understudy.cloud.teacher.weights import resolve_model as resolve_model

# What callers of other rooms take through this door; loaded when first asked for, so that the port
# itself stays as light as its types.
_LAZY = {
    "PACKAGED_MINILM": "spec",
    "LinearHead": "head",
    "PromptOptions": "spec",
    "ReplayEngine": "replay",
    "SentenceEncoder": "encoder",
    "TeacherSpec": "spec",
    "fit_head": "head",
    "fit_linear_teacher": "head",
    "head_spec": "head",
    "load_head": "head",
    "make_engine": "factory",
    "resolve_model": "weights",
    "save_head": "head",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the door leads to
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One input whose label distribution is wanted.

    Attributes:
        text: The input.
        labels: Labels to choose from; empty: all that the engine knows.
        priority: 0 for a waiting user, larger for work that can wait.
        deadline_unix_s: Expired work is dropped; infinite for none.
        trace: W3C `traceparent`; empty for none.
    """

    text: str
    labels: tuple[str, ...] = ()
    priority: int = 0
    deadline_unix_s: float = math.inf
    trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One prompt to be continued.

    Attributes:
        prompt: The text so far.
        max_tokens: Upper bound of new tokens.
        temperature: 0 for the most probable continuation.
        choices: If given, the answer is one of these texts.
        top_log_probs: How many log-probabilities to return per token; 0 for none.
        priority: As in `ScoreRequest`.
        deadline_unix_s: As in `ScoreRequest`.
    """

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    choices: tuple[str, ...] = ()
    top_log_probs: int = 0
    priority: int = 0
    deadline_unix_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A continuation.

    Attributes:
        text: New text.
        tokens: Token ids.
        log_probs: Log-probability of each token; empty when not asked for.
        top: Per token the best (token id, log-probability) pairs; empty when not asked for.
    """

    text: str
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInfo:
    """What an engine is.

    Attributes:
        id: Engine, model and revision in one string; goes into every label.
        engine: `transformers`, `vllm`, `openai` or `replay`.
        labels: Labels it knows of itself; empty when the request names them.
        generates: True if `generate` works.
    """

    id: str
    engine: str
    labels: tuple[str, ...] = ()
    generates: bool = False


@runtime_checkable
class TeacherEngine(Protocol):
    """A teacher. Methods are called on one event loop; `start` comes first, `stop` last."""

    def info(self) -> TeacherInfo:
        """What this engine is."""
        ...

    async def start(self) -> None:
        """Loads the model.

        Raises:
            ConfigError: If a person must edit the configuration.
        """
        ...

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """A distribution over labels for each request, same order; never raises for one input."""
        ...

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """A continuation for each request, same order."""
        ...

    async def health(self) -> None:
        """Returns if the engine can work.

        Raises:
            TeacherError: If it must be replaced.
        """
        ...

    async def stop(self, drain_s: float = 0.0) -> None:
        """Finishes what runs within `drain_s` seconds and frees the model; safe to repeat."""
        ...
