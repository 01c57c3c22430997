"""Errors to gRPC statuses, with push-back where patience helps; one place for every service."""

from __future__ import annotations

import logging
import math
from typing import NoReturn

import grpc

from understudy.cloud.gateway.caller import UnidentifiedError
from understudy.cloud.gateway.ports import Context
from understudy.types.convert import status_from_error
from understudy.types.errors import BundleError, OverloadedError, UnderstudyError

_log = logging.getLogger(__name__)

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC clients honour: milliseconds before the next attempt."""
_MAX_DETAILS = 2000


class NoSuchYetError(BundleError):
    """A "no" that belongs to the protocol: the caller asks until it hears it. No refusal."""


def status_of(error: BaseException) -> grpc.StatusCode:
    """The status a caller sees for an error."""
    if isinstance(error, UnidentifiedError):
        return grpc.StatusCode.UNAUTHENTICATED
    if isinstance(error, UnderstudyError):
        return grpc.StatusCode[status_from_error(error)]
    return grpc.StatusCode.INTERNAL


async def refuse(context: Context, error: BaseException) -> NoReturn:
    """Ends the call with the error's status; what nobody foresaw is logged, not told."""
    code = status_of(error)
    if not isinstance(error, UnderstudyError):
        _log.error("a call failed in a way nobody foresaw", exc_info=error)
        await context.abort(code, "the gateway failed; its log says why")
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError) and error.retry_after_s > 0.0:
        trailing = ((PUSHBACK, str(math.ceil(error.retry_after_s * 1000.0))),)
    await context.abort(code, str(error)[:_MAX_DETAILS], trailing)
    raise AssertionError("abort raises")
