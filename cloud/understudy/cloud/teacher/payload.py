"""What crosses between gateway and replica: plain dictionaries, never pickled classes.

`X_from_plain(X_to_plain(x)) == x`. An error keeps its class, its sentence and its patience.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest
from understudy.types import errors
from understudy.types.errors import OverloadedError, TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

Plain = dict[str, Any]

_ERRORS: dict[str, type[UnderstudyError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, UnderstudyError)
}


def request_to_plain(request: ScoreRequest | GenerateRequest) -> Plain:
    """Field by field."""
    return _shallow(request)


def score_request_from_plain(plain: Plain) -> ScoreRequest:
    """Reads `request_to_plain`."""
    return msgspec.convert(plain, ScoreRequest)


def generate_request_from_plain(plain: Plain) -> GenerateRequest:
    """Reads `request_to_plain`."""
    return msgspec.convert(plain, GenerateRequest)


def result_to_plain(result: TeacherLabel | Generation | UnderstudyError) -> Plain:
    """A value as its fields, an error as its class and sentence."""
    if isinstance(result, UnderstudyError):
        patience = getattr(result, "retry_after_s", 0.0)
        return {"error": type(result).__name__, "message": str(result), "retry_after_s": patience}
    return _shallow(result)


def _shallow(value: Any) -> Plain:  # noqa: ANN401 - any dataclass
    """Fields as they are; `asdict` would copy every label of every answer."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def label_from_plain(plain: Plain) -> TeacherLabel | UnderstudyError:
    """Reads `result_to_plain` of a label."""
    return error_from_plain(plain) or msgspec.convert(plain, TeacherLabel)


def generation_from_plain(plain: Plain) -> Generation | UnderstudyError:
    """Reads `result_to_plain` of a continuation."""
    return error_from_plain(plain) or msgspec.convert(plain, Generation)


def error_from_plain(plain: Plain) -> UnderstudyError | None:
    """The error in a result; None if it is a value."""
    name = plain.get("error")
    if name is None:
        return None
    kind = _ERRORS.get(name, TeacherError)
    if kind is OverloadedError:
        return OverloadedError(plain["message"], plain["retry_after_s"])
    return kind(plain["message"])
