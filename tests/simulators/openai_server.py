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
        heard: Bodies of all requests.
    """

    steps: list[dict[str, float]] = field(default_factory=lambda: [{"A": 0.6, " B": 0.3}])
    text: str = "yes"
    reply: Response | None = None
    key: str = ""
    delay_s: float = 0.0
    heard: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    async def models(self, request: Request) -> Response:
        """The list that a client asks for first."""
        return self._refusal(request) or JSONResponse({"data": [{"id": "tiny"}]})

    async def chat(self, request: Request) -> Response:
        """An answer with the likely tokens at each position."""
        await self._hear(request)
        return self._refusal(request) or self.reply or JSONResponse(self._chat())

    async def complete(self, request: Request) -> Response:
        """A continuation."""
        await self._hear(request)
        reply = JSONResponse({"choices": [{"text": self.text}]})
        return self._refusal(request) or self.reply or reply

    async def _hear(self, request: Request) -> None:
        self.heard.append(json.loads(await request.body()))
        await asyncio.sleep(self.delay_s)

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
