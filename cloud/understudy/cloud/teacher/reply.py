"""A server's reply, read within bounds; its refusals become our errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from understudy.types.errors import (
    AccessError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)

if TYPE_CHECKING:
    import httpx

MAX_REPLY_BYTES = 4 << 20
_DEFAULT_PATIENCE_S = 1.0


async def checked_reply(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a reply.

    Raises:
        OverloadedError: If the server asks for patience.
        AccessError: If it refuses the key.
        InvalidValueError: If it refuses the request.
        TeacherError: If the reply is no JSON object, too long, or a failure of its own.
    """
    data = bytearray()
    async for part in response.aiter_bytes():
        data += part
        if len(data) > MAX_REPLY_BYTES:
            raise TeacherError(f"the server's reply is longer than {MAX_REPLY_BYTES} bytes")
    if response.status_code >= 400:
        raise status_error(response.status_code, _patience(response), bytes(data[:300]))
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise TeacherError("the server's reply is not JSON") from error
    if not isinstance(reply, dict):
        raise TeacherError("the server's reply is not a JSON object")
    return reply


def status_error(status: int, patience_s: float, body: bytes) -> UnderstudyError:
    """Which of our errors a refusal is."""
    said = body.decode(errors="replace")
    if status in (429, 503):
        return OverloadedError(f"the server asks for patience ({status})", patience_s)
    if status in (401, 403):
        return AccessError(f"the server refuses the key ({status})")
    if status < 500:
        return InvalidValueError(f"the server refuses the request ({status}): {said}")
    return TeacherError(f"the server failed ({status}): {said}")


def transport_error(error: Exception, timeout_s: float) -> UnderstudyError:
    """Which of our errors a broken exchange is."""
    import httpx

    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return DeadlineError(f"the server did not answer within {timeout_s:.3f} s")
    if isinstance(error, httpx.TransportError):
        return LinkDownError(f"the server cannot be reached: {str(error) or type(error).__name__}")
    return TeacherError(f"the server's reply is unreadable: {error}")


def _patience(response: httpx.Response) -> float:
    """Seconds of `Retry-After`; a date or nonsense counts as the default."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return _DEFAULT_PATIENCE_S
