"""Any instruction model as a teacher: classes named in one prefill, continuations, reasons.

The label distribution is read off the full vocabulary's log-probabilities where the answer begins,
before any grammar or sampling rule touches them: so the share that fell on no class is known.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.distribution import prompt_hash, ranked_label
from understudy.cloud.teacher.lanes import Lane
from understudy.cloud.teacher.prompt import LabelPrompt, label_prompts, text_tokens
from understudy.cloud.teacher.rationale import PATTERN, rationale_prompt
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.cloud.teacher.vllm_setup import VllmProcess, last, warm_up
from understudy.cloud.teacher.weights import resolve_model
from understudy.types.errors import InvalidValueError, TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

# vLLM takes at most so many token ids per request; more choices are asked in several.
MAX_TOKEN_IDS = 128


class VllmEngine:
    """A `TeacherEngine` over a generative model.

    Args:
        spec: The teacher.
        process: A vLLM to share, of the same model and adapter: teachers that differ in their
            prompt need no second one.

    Raises:
        InvalidValueError: If the shared process has another model or adapter.
    """

    def __init__(self, spec: TeacherSpec, process: VllmProcess | None = None) -> None:
        self._spec = spec
        self._folder = resolve_model(spec)
        self.process = process or VllmProcess(spec, self._folder)
        if not self.process.serves(spec):
            raise InvalidValueError(
                "a vLLM is shared by teachers of one model and one adapter only"
            )
        # One question per set of classes; few sets are in use at a time.
        self._prompts = functools.lru_cache(maxsize=64)(self._make_prompts)

    def info(self) -> TeacherInfo:
        """Labels are those of the spec; a request may name others."""
        name = f"vllm:{self._folder.name}"
        if self._spec.adapter:
            name += f"+{self._spec.adapter.rstrip('/').rsplit('/', 1)[-1]}"
        return TeacherInfo(id=name, engine="vllm", labels=self._spec.labels, generates=True)

    async def start(self) -> None:
        """Starts vLLM and checks that its tokenizer can tell the spec's classes apart.

        Raises:
            ConfigError: If vLLM cannot run this model, or the classes need another alias.
        """
        if self.process.llm is None:
            await self.process.start()
        labels = self._spec.labels or ("yes", "no")
        try:
            await asyncio.to_thread(self._prompts, labels)
        except UnderstudyError:
            await self.stop()
            raise
        await warm_up(self, ScoreRequest(text="hello", labels=labels))

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """One prefill per request where every class is one token; see `trie` for the others."""
        return await self.process.each(requests, self._label)

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """Continuations; with `choices` the answer is one of them."""
        return await self.process.each(requests, self._continue)

    async def health(self) -> None:
        """Returns if the engine's processes live.

        Raises:
            TeacherError: If they do not.
        """
        await self.process.health()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Waits for what runs, then ends the processes."""
        await self.process.stop(drain_s)

    async def _label(self, request: ScoreRequest) -> TeacherLabel:
        labels = request.labels or self._spec.labels
        if not labels:
            raise InvalidValueError("name the labels in the request or in teacher.labels")
        prompts = self._prompts(labels)
        text = text_tokens(self.process.tokenizer, request.text)
        parts = await asyncio.gather(*(self._ask(prompt, text, request) for prompt in prompts))
        probabilities = np.mean([np.exp(log_probs) for log_probs, _ in parts], axis=0)
        with np.errstate(divide="ignore"):
            log_probs = np.log(probabilities)
        best = labels[int(np.argmax(log_probs))]
        return ranked_label(
            labels,
            log_probs,
            teacher=self.info().id,
            prompt_hash=prompt_hash(self.info().id, [prompt.wording for prompt in prompts]),
            label_mass=float(np.mean([mass for _, mass in parts])),
            rationale=await self._reason(request, best) if self._spec.prompt.rationale else "",
        )

    async def _ask(
        self, prompt: LabelPrompt, text: Sequence[int], request: ScoreRequest
    ) -> tuple[Any, float]:
        """The log-probability of each answer to one wording of the question."""
        stem = len(prompt.trie.stem)
        chunks = [
            (branch, branch.choices[start : start + MAX_TOKEN_IDS])
            for branch in prompt.trie.branches
            for start in range(0, len(branch.choices), MAX_TOKEN_IDS)
        ]
        asked = [
            self._choices(
                prompt.tokens(text, branch.path[stem:], self.process.max_tokens - 1),
                ids,
                request,
            )
            for branch, ids in chunks
        ]
        scores: dict[tuple[int, ...], dict[int, float]] = {}
        for (branch, _), found in zip(chunks, await asyncio.gather(*asked), strict=True):
            scores.setdefault(branch.path, {}).update(found)
        return prompt.trie.log_probs(scores)

    async def _choices(
        self, tokens: list[int], ids: Sequence[int], request: ScoreRequest
    ) -> dict[int, float]:
        """Full-vocabulary log-probabilities of the next token, for some tokens."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=list(ids), detokenize=False
        )
        async with self.process.gate.enter(Lane.LABELS):
            output = await self._run(tokens, parameters, request.priority, request.trace)
        given = output.outputs[0].logprobs[0]
        found = {token: float(given[token].logprob) for token in ids if token in given}
        if len(found) != len(ids):
            raise TeacherError("vLLM left out log-probabilities that it was asked for")
        return found

    async def _continue(self, request: GenerateRequest) -> Generation:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        only = list(request.choices)
        parameters = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            logprobs=request.top_log_probs or None,
            structured_outputs=StructuredOutputsParams(choice=only) if only else None,
        )
        tokens = list(self.process.tokenizer(request.prompt)["input_ids"])
        if not request.top_log_probs:
            return _generation(await self._run(tokens, parameters, request.priority))
        async with self.process.gate.enter(Lane.TOP):
            output = await self._run(tokens, parameters, request.priority)
        return _generation(output)

    async def _reason(self, request: ScoreRequest, label: str) -> str:
        """A sentence on why."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        options = self._spec.prompt
        process = self.process
        room = process.max_tokens - options.rationale_tokens
        asked = rationale_prompt(
            process.tokenizer, request.text, label, room, thinking=options.thinking
        )
        parameters = SamplingParams(
            max_tokens=options.rationale_tokens,
            temperature=0.0,
            structured_outputs=StructuredOutputsParams(regex=PATTERN),
        )
        output = await self._run(asked, parameters, request.priority)
        return str(output.outputs[0].text).strip()

    async def _run(self, tokens: list[int], parameters: Any, priority: int, trace: str = "") -> Any:  # noqa: ANN401 - vllm's own types
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        parameters.output_kind = RequestOutputKind.FINAL_ONLY
        process = self.process
        return await last(
            process.llm.generate(
                TokensPrompt(prompt_token_ids=tokens),
                parameters,
                process.request_id(),
                priority=priority,
                lora_request=process.adapter,
                trace_headers={"traceparent": trace} if trace else None,
            )
        )

    def _make_prompts(self, labels: tuple[str, ...]) -> list[LabelPrompt]:
        options = self._spec.prompt
        return label_prompts(self.process.tokenizer, labels, options, options.permutations)


def _generation(output: Any) -> Generation:  # noqa: ANN401 - vllm's own type
    said = output.outputs[0]
    steps = said.logprobs or []
    top = tuple(
        tuple(sorted(((t, p.logprob) for t, p in step.items()), key=lambda pair: -pair[1]))
        for step in steps
    )
    if any(not math.isfinite(value) for step in top for _, value in step):
        raise TeacherError("vLLM returned log-probabilities of minus infinity")
    chosen = (
        float(step[token].logprob) for token, step in zip(said.token_ids, steps, strict=False)
    )
    return Generation(
        text=said.text, tokens=tuple(said.token_ids), log_probs=tuple(chosen), top=top
    )
