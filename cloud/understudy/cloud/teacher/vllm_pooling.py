"""Classifiers and sentence encoders on vLLM: one forward pass, no words in between.

A model with a classification head gives its logits. An encoder gives unit sentence vectors, and one
of our linear heads makes logits of them: the same teacher as in the `transformers` engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.distribution import prompt_hash, restricted_label
from understudy.cloud.teacher.encoder import made_for
from understudy.cloud.teacher.head import LinearHead, load_head
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.cloud.teacher.vllm_setup import VllmProcess, last, warm_up
from understudy.cloud.teacher.weights import model_facts, model_labels, resolve_model
from understudy.types.errors import InvalidValueError, UnderstudyError
from understudy.types.records import TeacherLabel


class VllmPoolingEngine:
    """A `TeacherEngine` over a classifier; `generate` belongs to `VllmEngine`."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self._folder = resolve_model(spec)
        self._head: LinearHead | None = load_head(spec.head) if spec.head else None
        if self._head is not None:
            self._head.check_fit(model_facts(self._folder).get("hidden_size", 0))
        self._labels = self._head.labels if self._head else model_labels(self._folder, spec.labels)
        self._process = VllmProcess(spec, self._folder)
        self._longest = spec.max_tokens or (made_for(self._folder) if spec.head else 0)

    def info(self) -> TeacherInfo:
        """Labels are those of the head."""
        name = self._spec.model.removeprefix("package:").rstrip("/").rsplit("/", 1)[-1]
        suffix = f"+{self._head.digest}" if self._head else ""
        return TeacherInfo(id=f"vllm:{name}{suffix}", engine="vllm", labels=self._labels)

    async def start(self) -> None:
        """Starts vLLM.

        Raises:
            ConfigError: If vLLM cannot run this model.
        """
        await self._process.start()
        await warm_up(self, ScoreRequest(text="hello"))

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """One forward pass; vLLM batches what is under way together."""
        return await self._process.each(requests, self._label)

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """A classifier continues no prompt."""
        refusal = InvalidValueError("this teacher is a classifier; it cannot generate")
        return [refusal] * len(requests)

    async def health(self) -> None:
        """Returns if the engine's processes live.

        Raises:
            TeacherError: If they do not.
        """
        await self._process.health()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Waits for what runs, then ends the processes."""
        await self._process.stop(drain_s)

    async def _label(self, request: ScoreRequest) -> TeacherLabel:
        pooled = await self._pool(request)
        logits = pooled if self._head is None else self._head.logits(pooled)
        info = self.info()
        return restricted_label(
            self._labels,
            logits,
            request.labels,
            teacher=info.id,
            prompt_hash=prompt_hash(info.id, request.labels or self._labels),
        )

    async def _pool(self, request: ScoreRequest) -> NDArray[np.float32]:
        """Raw logits of the model's own head, or the unit sentence vector."""
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        embed = self._head is not None
        process = self._process
        parameters = PoolingParams(task="embed" if embed else "classify", use_activation=embed)
        limit = min(self._longest or process.max_tokens, process.max_tokens)
        encoded = process.tokenizer(request.text, truncation=True, max_length=limit)
        output: Any = await last(
            process.llm.encode(
                TokensPrompt(prompt_token_ids=list(encoded["input_ids"])),
                parameters,
                process.request_id(),
                priority=request.priority,
            )
        )
        result: NDArray[np.float32] = output.outputs.data.float().numpy()
        return result
