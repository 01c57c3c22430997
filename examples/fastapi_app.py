"""A product with a FastAPI front: the student answers in the same process, without a thread pool.

    EDGE_CONFIG=edge.yaml uvicorn --app-dir examples fastapi_app:app

One client for the life of the process; each worker process has its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from understudy.edge import AsyncEdgeClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncEdgeClient.open(os.environ["EDGE_CONFIG"]) as client:
        app.state.client = client
        yield


app = FastAPI(title="Support desk", lifespan=lifespan)


class Message(BaseModel):
    text: str = Field(max_length=4000)
    private: bool = False


class Intent(BaseModel):
    label: str
    confidence: float
    source: str
    certified: bool
    degraded: bool
    reason: str


@app.post("/intent")
async def intent(message: Message, request: Request) -> Intent:
    # Passing the trace on lets the teacher's span hang below this request's.
    answer = await request.app.state.client.predict(
        message.text,
        deadline_ms=300,
        never_escalate=message.private,
        traceparent=request.headers.get("traceparent", ""),
    )
    return Intent(**{name: getattr(answer, name) for name in Intent.model_fields})


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    # Healthy means that the student answers; the cloud being away is no reason to be restarted.
    status = asdict(await request.app.state.client.status())
    return {name: status[name] for name in ("bundle", "certified", "requests", "degraded")}
