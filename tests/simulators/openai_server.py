"""A server that speaks the chat-completions protocol over a real socket, with scripted moods."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class OpenAIServer:
    """What the server says, and what it heard.

    Attributes:
        steps: Per position of a chat answer: the probability of each likely token.
        text: What a plain completion says.
        reply: If set, sent instead of anything else.
        key: If set, the key that is asked for.
        delay_s: Seconds before it answers.
        tokens: If set, it shows its tokenizer as vLLM does: the probability of each token where an
            answer begins, by the token's id. An id is the character's own number.
        merges: Texts that are one token although they have two letters, with their ids.
        unknown: The status of a path that it does not have.
        obeys: False for an older vLLM, which does not know `logprob_token_ids`.
        heard: Bodies of all questions.
    """

    steps: list[dict[str, float]] = field(default_factory=lambda: [{"A": 0.6, " B": 0.3}])
    text: str = "yes"
    reply: Response | None = None
    key: str = ""
    delay_s: float = 0.0
    tokens: dict[int, float] = field(default_factory=dict)
    merges: dict[str, int] = field(default_factory=dict)
    unknown: int = 404
    obeys: bool = True
    heard: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    async def models(self, request: Request) -> Response:
        """The list that a client asks for first."""
        return self._refusal(request) or JSONResponse({"data": [{"id": "tiny"}]})

    async def chat(self, request: Request) -> Response:
        """An answer with the likely tokens at each position."""
        body = await self._hear(request)
        ids = body.get("logprob_token_ids") if self.obeys and self.tokens else None
        answer = self._chat() if ids is None else self._exact(ids)
        return self._refusal(request) or self.reply or JSONResponse(answer)

    async def tokenize(self, request: Request) -> Response:
        """The tokens of a prompt, or of a conversation up to where the answer begins."""
        if not self.tokens:
            return JSONResponse({"detail": "there is no such path"}, self.unknown)
        body = json.loads(await request.body())
        text = body.get("prompt") or f"<{body['messages'][0]['content']}>"
        return JSONResponse({"tokens": self._split(text)})

    async def detokenize(self, request: Request) -> Response:
        """Their text."""
        body = json.loads(await request.body())
        return JSONResponse({"prompt": "".join(map(chr, body["tokens"]))})

    def _split(self, text: str) -> list[int]:
        for merge, number in self.merges.items():
            if text.endswith(merge):
                return [*map(ord, text.removesuffix(merge)), number]
        return list(map(ord, text))

    def _exact(self, ids: list[int]) -> dict[str, Any]:
        listed = [
            {"token": f"token_id:{one}", "logprob": math.log(self.tokens.get(one, 1e-12))}
            for one in ids
        ]
        content = [{"token": "token_id:0", "logprob": -1.0, "top_logprobs": listed}]
        return {"choices": [{"message": {"content": ""}, "logprobs": {"content": content}}]}

    async def complete(self, request: Request) -> Response:
        """A continuation."""
        await self._hear(request)
        reply = JSONResponse({"choices": [{"text": self.text}]})
        return self._refusal(request) or self.reply or reply

    async def _hear(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.body())
        self.heard.append(body)
        await asyncio.sleep(self.delay_s)
        return body

    def _refusal(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "no"}, 401)
        return None

    def _chat(self) -> dict[str, Any]:
        content = []
        for step in self.steps:
            listed = [{"token": t, "logprob": math.log(p)} for t, p in step.items()]
            best = max(listed, key=lambda one: float(str(one["logprob"])))
            content.append({**best, "top_logprobs": listed})
        return {"choices": [{"message": {"content": ""}, "logprobs": {"content": content}}]}


@asynccontextmanager
async def running(server: OpenAIServer) -> AsyncIterator[OpenAIServer]:
    """Serves on a free port of this machine."""
    app = Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/completions", server.complete, methods=["POST"]),
            Route("/tokenize", server.tokenize, methods=["POST"]),
            Route("/detokenize", server.detokenize, methods=["POST"]),
        ]
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server.address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        web = uvicorn.Server(config)
        # The test's own process keeps its signals.
        task = asyncio.create_task(web.serve(sockets=[listener]))
        try:
            yield server
        finally:
            web.should_exit = True
            await task
