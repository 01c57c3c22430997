"""Keep or escalate: the decision about one request, and its closed set of reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from understudy.types.errors import InvalidValueError

NEVER_KEEP = math.inf
"""The threshold of a contract that could not be certified: every request escalates."""


class Reason(StrEnum):
    """Why an answer came about the way it did; the same words in code, wire, logs and metrics."""

    CONFIDENT = "confident"
    """Kept: confidence at or above the threshold."""
    UNSURE = "unsure"
    """Escalated: confidence under the threshold."""
    UNCERTIFIED = "uncertified"
    """Escalated: the contract holds at no threshold; or kept because `on_uncertified: serve`."""
    OUT_OF_DISTRIBUTION = "out_of_distribution"
    """Escalated: the input resembles nothing the student was taught."""
    INVALID_SCORE = "invalid_score"
    """Escalated: the student's numbers were not finite, or not one a class."""
    DRIFT = "drift"
    """Escalated: the cloud raised the threshold after a drift alarm."""
    CACHED = "cached"
    """Answered from the exact cache of teacher answers."""
    EDGE_ONLY = "edge_only"
    """Degraded: the mode forbids escalation."""
    ANSWER_FIRST = "answer_first"
    """Degraded for now: the teacher is asked in the background."""
    PRIVATE = "private"
    """Degraded: this input must never leave the device."""
    NO_BUDGET = "no_budget"
    """Degraded: the share of teacher calls is spent."""
    LINK_DOWN = "link_down"
    """Degraded: the cloud could not be reached, or its teacher has not come up yet."""
    DEADLINE = "deadline"
    """Degraded: the cloud did not answer within the budget."""
    OVERLOADED = "overloaded"
    """Degraded: the cloud asked for patience, or over quota."""
    THROTTLED = "throttled"
    """Degraded: the client spares a cloud that has been failing."""
    ACCESS_DENIED = "access_denied"
    """Degraded: the cloud refuses this node's credentials."""
    TEACHER_FAILED = "teacher_failed"
    """Degraded: the cloud answered, with an error or nonsense."""
    EMPTY_INPUT = "empty_input"
    """Degraded: there was nothing to read in the text."""


class Action(StrEnum):
    """What the policy says to do."""

    KEEP = "keep"
    ESCALATE = "escalate"


class RecordKind(StrEnum):
    """Why a row is in the log."""

    ESCALATION = "escalation"
    AUDIT = "audit"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy decided about one request.

    Attributes:
        action: Keep the student's answer, or ask the teacher.
        audit: True if the audit coin fell on this request. Drawn before the confidence is seen.
        propensity: Probability that a teacher label is obtained, given what was known: 1 for an
            escalation, the audit rate for a kept request.
        threshold: The threshold in force, `NEVER_KEEP` when nothing may be kept.
        reason: Why.
        certified: True if the certificate covers an answer taken this way.
    """

    action: Action
    audit: bool
    propensity: float
    threshold: float
    reason: Reason
    certified: bool

    def __post_init__(self) -> None:
        if not 0.0 <= self.propensity <= 1.0:
            raise InvalidValueError(f"propensity must lie in [0, 1], not {self.propensity}")
        if math.isnan(self.threshold):
            raise InvalidValueError("threshold must be a number")
