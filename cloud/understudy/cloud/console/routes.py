"""Starlette routes of the console: the page, its files, the nights' reports, and three writes.

Rules kept here:

* Nothing is served that is not under `static/` or the reports' folder.
* The page runs no script and loads no byte from another host: its content policy says so.
* A write needs the operator's bearer token, compared in constant time. Without a configured token,
  or without somebody to carry the write out, there are no writes.
"""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from understudy.types.errors import InvalidValueError, UnderstudyError

log = logging.getLogger("understudy.cloud.console")

STATIC = Path(__file__).parent / "static"
MIN_TOKEN_CHARS = 16

_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is one file with its styles and pictures inside; it never runs a script.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class RolloutControl(Protocol):
    """Who carries out what the buttons ask. Methods may block; each returns one sentence.

    Raises:
        UnderstudyError: If there is nothing to pause, resume or roll back; the message says so.
    """

    def pause(self) -> str:
        """Offers the release to no further node."""
        ...

    def resume(self) -> str:
        """Lets the share offered grow again."""
        ...

    def rollback(self) -> str:
        """Publishes the release before forward, as the newest."""
        ...


def console_routes(
    *,
    state: Callable[[str], Mapping[str, Any]],
    tasks: Sequence[str],
    control: Callable[[str], RolloutControl | None] = lambda _: None,
    token: str = "",
    reports: Path | None = None,
) -> list[BaseRoute]:
    """The routes to add to the operator's application.

    Args:
        state: Gives the object that the README of this package describes, for a task; may block.
        tasks: Names of the tasks; the first is shown to who names none.
        control: Gives who carries out the buttons for a task; for None the page has none.
        token: The operator's bearer token; empty leaves the page without buttons.
        reports: Folder of the nights' reports, one HTML file each; None when there are none.

    Raises:
        InvalidValueError: If the token is too short to be one.
    """
    if token and len(token) < MIN_TOKEN_CHARS:
        raise InvalidValueError(f"the operator token needs at least {MIN_TOKEN_CHARS} characters")

    async def read_state(request: Request) -> Response:
        if (task := _task(request, tasks)) is None:
            return _no_task(tasks)
        seen = await run_in_threadpool(state, task)
        writable = bool(token) and control(task) is not None
        shown = _finite({**seen, "writable": writable})
        return JSONResponse(shown, headers={"Cache-Control": "no-store"})

    routes: list[BaseRoute] = [
        Route("/", _page, methods=["GET"]),
        Route("/api/state", read_state, methods=["GET"]),
        Route("/api/rollout/{action}", _writer(control, token, tasks), methods=["POST"]),
        Mount("/static", _Files(STATIC, _PAGE_POLICY)),
    ]
    if reports is not None:
        routes.append(Mount("/reports", _Files(reports, _REPORT_POLICY)))
    return routes


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON is any value
    """JSON knows no infinity: what is not finite becomes null, which the page understands."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


async def _page(_: Request) -> Response:
    headers = {**_HEADERS, "Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(STATIC / "index.html", headers=headers)


def _task(request: Request, tasks: Sequence[str]) -> str | None:
    """The task that is asked about; None if there is no such task."""
    named = request.query_params.get("task") or tasks[0]
    return named if named in tasks else None


def _no_task(tasks: Sequence[str]) -> Response:
    return _refuse(404, f"there is no such task; there are {', '.join(tasks)}")


def _writer(
    control: Callable[[str], RolloutControl | None], token: str, tasks: Sequence[str]
) -> Callable[[Request], Any]:
    """The one endpoint of all writes: who are you, what do you want, done or why not."""

    async def write(request: Request) -> Response:
        if (task := _task(request, tasks)) is None:
            return _no_task(tasks)
        if (rollout := control(task)) is None or not token:
            return _refuse(403, "this console has no operator token: set one to use the buttons")
        if not _authorised(request, token):
            log.warning("a write without the right token was refused")
            return _refuse(401, "the token is wrong")
        actions = {"pause": rollout.pause, "resume": rollout.resume, "rollback": rollout.rollback}
        act = actions.get(request.path_params["action"])
        if act is None:
            return _refuse(404, f"there is no such action; there are {', '.join(actions)}")
        try:
            said = await run_in_threadpool(act)
        except UnderstudyError as error:
            return _refuse(409, str(error))
        log.info("the operator asked to %s: %s", request.path_params["action"], said)
        return JSONResponse({"done": said})

    return write


def _authorised(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())


def _refuse(status: int, words: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": words}, status_code=status, headers=headers)


class _Files:
    """Static files with the headers that keep a page harmless."""

    def __init__(self, folder: Path, policy: str) -> None:
        self._files = StaticFiles(directory=folder, check_dir=False)
        self._headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in self._headers.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self._files(scope, receive, with_headers)
