"""Any server that speaks OpenAI's protocol as a teacher: hosted, `vllm serve`, or another gateway.

Where the server shows its tokenizer (`vllm serve` does), it is asked for the log-probabilities of
the label tokens. Elsewhere answers are matched by their text among the most probable tokens that
the server lists. Either way the label mass says how much of the distribution fell on the classes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.distribution import expired, prompt_hash, ranked_label
from understudy.cloud.teacher.lanes import Lane, LaneGate
from understudy.cloud.teacher.listed import Step, listed_log_probs
from understudy.cloud.teacher.prompt import fixed_codes, question
from understudy.cloud.teacher.reply import checked_reply, transport_error
from understudy.cloud.teacher.server_tokens import (
    MAX_TOKEN_IDS,
    LabelTokens,
    find_label_tokens,
    read_log_probs,
    wanted,
)
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.types.errors import (
    ConfigError,
    InvalidValueError,
    LinkDownError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger(__name__)

# The protocol lists no more than so many tokens per position.
TOP_LOG_PROBS = 20


class OpenAIEngine:
    """A `TeacherEngine` behind HTTP. `engine_args` are added to the body of every request."""

    def __init__(self, spec: TeacherSpec) -> None:
        if not spec.address.startswith(("http://", "https://")):
            raise ConfigError(
                "teacher.address: name the server, such as http://127.0.0.1:8000/v1, "
                f"not '{spec.address}'"
            )
        self._spec = spec
        self._client: httpx.AsyncClient | None = None
        self._room = asyncio.Semaphore(spec.max_batch)
        self._tokens: LabelTokens | None = None
        # vLLM's first model runner must not see both kinds of question in one batch.
        self._gate = LaneGate()

    def info(self) -> TeacherInfo:
        """Labels are those of the spec; a request may name others."""
        spec = self._spec
        return TeacherInfo(
            id=f"openai:{spec.model}", engine="openai", labels=spec.labels, generates=True
        )

    async def start(self) -> None:
        """Connects, asks the server for its models, and learns its label tokens if it tells them.

        Raises:
            ConfigError: If nobody answers there, or it refuses the key.
        """
        import httpx

        key = os.environ.get(self._spec.api_key_variable, "")
        self._client = httpx.AsyncClient(
            base_url=self._spec.address.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=self._spec.max_batch),
            timeout=self._spec.timeout_s,
        )
        try:
            await self.health()
            self._tokens = await self._learn_tokens()
        except UnderstudyError as error:
            await self.stop()
            raise ConfigError(f"teacher.address: {self._spec.address}: {error}") from error

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """One completion of a few tokens per request."""
        return list(await asyncio.gather(*map(self._score, requests)))

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """Continuations; an answer that is none of the `choices` is an error."""
        return list(await asyncio.gather(*map(self._continue, requests)))

    async def health(self) -> None:
        """Returns if the server lists its models.

        Raises:
            TeacherError: If it does not.
        """
        try:
            await self._call("GET", "models", None, self._spec.timeout_s)
        except UnderstudyError as error:
            raise TeacherError(f"the server does not work: {error}") from error

    async def stop(self, drain_s: float = 0.0) -> None:
        """Closes the connections."""
        del drain_s  # nothing runs here that could be waited for
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _score(self, request: ScoreRequest) -> TeacherLabel | UnderstudyError:
        try:
            return await self._label(request)
        except UnderstudyError as error:
            return error

    async def _continue(self, request: GenerateRequest) -> Generation | UnderstudyError:
        try:
            return await self._complete(request)
        except UnderstudyError as error:
            return error

    async def _label(self, request: ScoreRequest) -> TeacherLabel:
        labels = request.labels or self._spec.labels
        if len(labels) < 2:
            raise InvalidValueError("name at least two labels in the request or in teacher.labels")
        tokens = self._tokens.first(len(labels)) if self._tokens else None
        exact = tokens is not None and len(tokens.codes) == len(labels)
        codes = tokens.codes if tokens and exact else fixed_codes(len(labels))
        before, after = question(labels, codes, self._spec.prompt.instruction)
        body = self._chat(before + request.text.replace('"', "'") + after)
        if tokens and exact:
            reply = await self._ask(Lane.LABELS, body | wanted(tokens), request)
            scores, mass = read_log_probs(reply, tokens.ids)
        else:
            # A code of n letters falls into n tokens at most.
            listed = {"max_tokens": len(codes[0]), "logprobs": True, "top_logprobs": TOP_LOG_PROBS}
            reply = await self._ask(Lane.TOP, body | listed, request)
            scores, mass = listed_log_probs(codes, _chat_steps(reply))
        return ranked_label(
            labels,
            scores,
            teacher=self.info().id,
            prompt_hash=prompt_hash(self.info().id, before, after),
            label_mass=mass,
        )

    async def _ask(self, lane: Lane, body: dict[str, Any], request: ScoreRequest) -> dict[str, Any]:
        async with self._gate.enter(lane):
            return await self._post("chat/completions", body, request)

    def _chat(self, asked: str) -> dict[str, Any]:
        """The body of a question; only a server that shows its tokens is told about thinking."""
        body = {"messages": [{"role": "user", "content": asked}], "temperature": 0.0}
        return body | self._template() if self._tokens else body

    def _template(self) -> dict[str, Any]:
        return {"chat_template_kwargs": {"enable_thinking": self._spec.prompt.thinking}}

    async def _learn_tokens(self) -> LabelTokens | None:
        """Label tokens for every set of classes, if the server tells them and obeys them."""
        question = {
            "model": self._spec.model,
            "messages": [{"role": "user", "content": "A or B?"}],
            **self._template(),
        }
        count = min(max(len(self._spec.labels), 26), MAX_TOKEN_IDS)
        tokens = await find_label_tokens(self._beside, question, count)
        if tokens is None:
            return None
        body = question | {"temperature": 0.0} | wanted(tokens) | dict(self._spec.engine_args)
        try:
            reply = await self._call("POST", "chat/completions", body, self._spec.timeout_s)
            read_log_probs(reply, tokens.ids)
        except (InvalidValueError, TeacherError) as error:
            _log.info("the server's lists are read, it knows no label tokens: %s", error)
            return None
        return tokens

    async def _beside(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Posts to a path beside the protocol's own: vLLM's tokenizer is not below `/v1`."""
        root = self._spec.address.rstrip("/").removesuffix("/v1")
        return await self._call("POST", f"{root}/{path}", body, self._spec.timeout_s)

    async def _complete(self, request: GenerateRequest) -> Generation:
        body = {
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if request.top_log_probs:
            raise InvalidValueError(
                "token ids of this server are unknown: ask without top_log_probs"
            )
        reply = await self._post("completions", body, request)
        try:
            text = str(reply["choices"][0]["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise TeacherError("the server's reply holds no text") from error
        if request.choices and text.strip() not in request.choices:
            raise TeacherError("the server's answer is none of the choices")
        return Generation(text=text.strip() if request.choices else text)

    async def _post(
        self, path: str, body: dict[str, Any], request: ScoreRequest | GenerateRequest
    ) -> dict[str, Any]:
        async with self._room:
            late = expired(request)
            if late is not None:
                raise late
            budget = min(self._spec.timeout_s, request.deadline_unix_s - time.time())
            full = {"model": self._spec.model, **body, **self._spec.engine_args}
            return await self._call("POST", path, full, budget)

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> dict[str, Any]:
        import httpx

        if self._client is None:
            raise LinkDownError("the teacher has not come up yet")
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream(method, path, json=body) as response,
            ):
                return await checked_reply(response)
        except (httpx.HTTPError, TimeoutError) as error:
            raise transport_error(error, timeout_s) from error


def _chat_steps(reply: dict[str, Any]) -> list[Step]:
    """What the server listed at each position of its answer.

    Raises:
        TeacherError: If it listed nothing.
    """
    try:
        content = reply["choices"][0]["logprobs"]["content"]
        return [
            Step(
                said=str(position["token"]),
                listed=tuple(
                    (str(t["token"]), float(t["logprob"])) for t in position["top_logprobs"]
                ),
            )
            for position in content
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TeacherError(
            "the server's reply lists no log-probabilities; it must support top_logprobs"
        ) from error
