"""What a product gets back from one `predict`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from understudy.types.decision import Reason
from understudy.types.errors import InvalidValueError


class Source(StrEnum):
    """Who gave the answer."""

    STUDENT = "student"
    TEACHER = "teacher"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; immutable.

    Attributes:
        label: The class named by the student or the teacher.
        confidence: The student's calibrated confidence in its own label, in [0, 1]; 0 when its
            scores were unusable.
        source: Who gave the label.
        certified: True if the contract's certificate covers this answer.
        degraded: True if the teacher should have been asked and could not be.
        reason: Why this path was taken, one of a closed set of words.
        bundle: Id of the student bundle that was in use.
        latency_ms: Wall time of the call, milliseconds.
        scores: The answering model's probabilities of its best labels, best first.
        request_id: UUIDv7 of this request; the event id in the log.
        truncated: True if the text was longer than the student reads.
    """

    label: str
    confidence: float
    source: Source
    certified: bool
    degraded: bool
    reason: Reason
    bundle: str
    latency_ms: float
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    request_id: str = ""
    truncated: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.confidence) and 0.0 <= self.confidence <= 1.0):
            raise InvalidValueError(f"confidence must lie in [0, 1], not {self.confidence}")
