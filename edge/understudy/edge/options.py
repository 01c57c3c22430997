"""What a caller may say about one request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypedDict

from understudy.edge.config import EdgeConfig, Mode
from understudy.edge.events import Listener
from understudy.edge.text import readable
from understudy.types.config import nearest_key
from understudy.types.errors import InvalidValueError


class PredictOptions(TypedDict, total=False):
    """Keywords of `predict` and `predict_many`; what is left out is as configured.

    Attributes:
        deadline_ms: Budget of the call, milliseconds.
        mode: How to escalate.
        never_escalate: The text must not leave the process, in no form, ever.
        subject: Opaque tag of the person or thing the text is about, for `forget`.
        slice_name: Slice of the traffic, for a contract with slices.
        traceparent: W3C trace context, carried to the teacher.
        on_correction: With `answer_first`: told when the teacher has answered.
    """

    deadline_ms: float
    mode: Mode | str
    never_escalate: bool
    subject: str
    slice_name: str
    traceparent: str
    on_correction: Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`PredictOptions`, complete and checked."""

    deadline_ms: float
    mode: Mode
    never_escalate: bool = False
    subject: str = ""
    slice_name: str = ""
    traceparent: str = ""
    on_correction: Listener | None = None

    def __post_init__(self) -> None:
        if not self.deadline_ms > 0:
            raise InvalidValueError(f"deadline_ms must be positive, not {self.deadline_ms}")
        for name in ("subject", "slice_name", "traceparent"):
            if not isinstance(getattr(self, name), str):
                raise InvalidValueError(f"{name} must be a str")


def request_of(config: EdgeConfig, options: PredictOptions) -> Request:
    """Completes a caller's keywords from the configuration.

    Raises:
        InvalidValueError: If a keyword is unknown or out of range.
    """
    given: dict[str, Any] = {"deadline_ms": config.deadline_ms, "mode": config.mode, **options}
    unknown = [name for name in given if name not in Request.__slots__]
    if unknown:
        near = nearest_key(unknown[0], Request.__slots__)
        raise InvalidValueError(f"predict has no option '{unknown[0]}'.{near}")
    try:
        given["mode"] = Mode(given["mode"])
    except ValueError as error:
        known = ", ".join(Mode)
        raise InvalidValueError(f"mode must be one of {known}, not {given['mode']!r}") from error
    request = Request(**given)
    # It travels with the record, and neither disk nor wire carries every `str`.
    return replace(request, slice_name=readable(request.slice_name))
