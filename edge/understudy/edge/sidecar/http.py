"""HTTP and JSON: `/v1/predict`, `/v1/predict_many`, `/v1/forget`, status, health, metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from understudy.edge.aio import AsyncEdgeClient
from understudy.edge.exporters import prometheus_text
from understudy.edge.sidecar.openapi import DESCRIPTION
from understudy.types.answer import Answer
from understudy.types.errors import InvalidValueError, UnderstudyError

MAX_BODY_BYTES = 4 << 20
MAX_TEXTS = 1024
_OPTIONS = ("deadline_ms", "mode", "never_escalate", "subject", "slice_name")

Handler = Callable[[Request], Awaitable[Response]]


class Face:
    """The handlers around a client."""

    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client

    def routes(self) -> list[Route]:
        """Every path; `openapi` describes them."""
        return [
            Route("/v1/predict", _guarded(self.predict), methods=["POST"]),
            Route("/v1/predict_many", _guarded(self.predict_many), methods=["POST"]),
            Route("/v1/forget", _guarded(self.forget), methods=["POST"]),
            Route("/v1/status", self.status),
            Route("/healthz", self.healthy),
            Route("/readyz", self.ready),
            Route("/metrics", _guarded(self.metrics)),
            Route("/openapi.json", self.openapi),
        ]

    async def predict(self, request: Request) -> Response:
        """Answers one text."""
        body = await _body(request, {"text", *_OPTIONS})
        text = _field(body, "text", str)
        return JSONResponse(plain(await self._client.predict(text, **_options(request, body))))

    async def predict_many(self, request: Request) -> Response:
        """Answers texts in their order."""
        body = await _body(request, {"texts", *_OPTIONS})
        texts = _field(body, "texts", list)
        if len(texts) > MAX_TEXTS:
            raise InvalidValueError(f"'texts' may hold {MAX_TEXTS} texts, not {len(texts)}")
        answers = await self._client.predict_many(texts, **_options(request, body))
        return JSONResponse({"answers": [plain(answer) for answer in answers]})

    async def forget(self, request: Request) -> Response:
        """Deletes what has not left yet about a subject."""
        body = await _body(request, {"subject"})
        gone = await self._client.forget(_field(body, "subject", str))
        return JSONResponse({"forgotten": gone})

    async def status(self, _: Request) -> Response:
        """How the client is; an infinite threshold is null."""
        found = asdict(await self._client.status())
        found["threshold"] = _finite(found["threshold"])
        return JSONResponse(found)

    async def healthy(self, _: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """A student is loaded, or nobody would be here to say so."""
        now = await self._client.status()
        return JSONResponse({"status": "ok", "bundle": now.bundle, "certified": now.certified})

    async def metrics(self, _: Request) -> Response:
        """Prometheus's text format."""
        text = prometheus_text(self._client.runtime)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """The description of all this."""
        return JSONResponse(DESCRIPTION)


def build_app(client: AsyncEdgeClient, *, loopback: bool) -> Starlette:
    """The application around a client.

    Args:
        client: Who answers.
        loopback: Refuse any other Host header than this machine's, so that a web page in a browser
            here cannot reach the sidecar by rebinding a name.
    """
    here = ["localhost", "127.0.0.1", "[::1]"] if loopback else ["*"]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=here)
    return Starlette(routes=Face(client).routes(), middleware=[hosts])


def plain(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    return {**asdict(answer), "scores": dict(answer.scores)}


def _guarded(handler: Handler) -> Handler:
    """A caller's slip is 400 with one sentence; nothing else goes wrong in a client."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except _TooLargeError as error:
            return JSONResponse({"error": str(error)}, status_code=413)
        except UnderstudyError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return guarded


class _TooLargeError(InvalidValueError):
    """The body is larger than any text a student reads."""


async def _body(request: Request, known: set[str]) -> Mapping[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise _TooLargeError(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError("the body is not valid JSON") from error
    if not isinstance(body, dict):
        raise InvalidValueError("the body must be a JSON object")
    unknown = sorted(set(body) - known)
    if unknown:
        raise InvalidValueError(f"unknown field '{unknown[0]}'; known: {', '.join(sorted(known))}")
    return body


def _field(body: Mapping[str, Any], name: str, kind: type[Any]) -> Any:  # noqa: ANN401 - of that kind
    if not isinstance(body.get(name), kind):
        word = "a string" if kind is str else "a list of strings"
        raise InvalidValueError(f"the field '{name}' must be {word}")
    return body[name]


_KINDS: dict[str, tuple[type[Any], ...]] = {
    "deadline_ms": (int, float), "mode": (str,), "never_escalate": (bool,), "subject": (str,),
    "slice_name": (str,),
}  # fmt: skip


def _options(request: Request, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - PredictOptions, checked there
    options = {name: body[name] for name in _OPTIONS if name in body}
    for name, value in options.items():
        if not isinstance(value, _KINDS[name]):
            raise InvalidValueError(f"the field '{name}' must be a {_KINDS[name][0].__name__}")
    trace = request.headers.get("traceparent", "")
    return {**options, "traceparent": trace} if trace.isascii() else options


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
