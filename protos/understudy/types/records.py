"""Rows of the escalation log: what the edge asked, and what the teacher said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from understudy.types.decision import RecordKind
from understudy.types.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label with the student's probability of it, in [0, 1]."""

    label: str
    score: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise InvalidValueError(f"a score must lie in [0, 1], not {self.score}")


@dataclass(frozen=True, slots=True)
class EscalationRecord:
    """One request as the edge saw it.

    Attributes:
        event_id: UUIDv7 made on the edge; the idempotency key everywhere.
        task: Name of the task that student and teacher answer.
        bundle: Id of the bundle that answered.
        text: The input, after the product's redaction.
        top: The student's best labels, best first; empty when its scores were unusable.
        confidence: Calibrated confidence in `top[0]`, in [0, 1].
        threshold: Threshold in force; infinite when nothing may be kept.
        kind: Why the row exists.
        coin: The audit coin, drawn before the confidence was seen.
        audit_rate: Probability with which the coin falls, in [0, 1].
        propensity: Probability that a label is obtained: 1 for an escalation, else `audit_rate`.
        created_unix_s: Edge clock at the request, seconds since 1970.
        node: Identity of the node. Set by the gateway from the certificate, never by the edge.
        subject: Opaque tag of the person or thing the input is about, for `forget`.
        slice_name: Slice of the traffic the product put the request in; empty for none.
    """

    event_id: str
    task: str
    bundle: str
    text: str
    top: tuple[LabelScore, ...]
    confidence: float
    threshold: float
    kind: RecordKind
    coin: bool
    audit_rate: float
    propensity: float
    created_unix_s: float
    node: str = ""
    subject: str = ""
    slice_name: str = ""

    def __post_init__(self) -> None:
        if not self.event_id:
            raise InvalidValueError("event_id must not be empty")
        for name in ("confidence", "audit_rate", "propensity"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InvalidValueError(f"{name} must lie in [0, 1], not {value}")
        if math.isnan(self.threshold) or not math.isfinite(self.created_unix_s):
            raise InvalidValueError("threshold and created_unix_s must be numbers")

    @property
    def student_label(self) -> str:
        """The student's answer; empty when it had none."""
        return self.top[0].label if self.top else ""


@dataclass(frozen=True, slots=True)
class TeacherLabel:
    """What the teacher said about one input.

    Attributes:
        teacher: Id of the teacher: engine, model and revision.
        prompt_hash: Digest of prompt, template and label set; labels of different hashes are not
            mixed silently.
        labels: Labels the distribution is over, most probable first.
        log_probs: Natural log-probabilities, same order, normalised over `labels`.
        label_mass: Share of the teacher's full distribution that fell on labels at all, in
            [0, 1]; low mass means that it did not follow the format.
        rationale: Why, in the teacher's words; empty when not asked for.
    """

    teacher: str
    prompt_hash: str
    labels: tuple[str, ...]
    log_probs: tuple[float, ...]
    label_mass: float = 1.0
    rationale: str = ""

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.log_probs):
            raise InvalidValueError("a teacher label needs one log-probability per label")
        if any(math.isnan(p) or p > 1e-6 for p in self.log_probs):
            raise InvalidValueError("log-probabilities must be numbers at or below zero")
        if any(a < b for a, b in pairwise(self.log_probs)):
            raise InvalidValueError("labels must come most probable first")
        if not 0.0 <= self.label_mass <= 1.0 + 1e-6:
            raise InvalidValueError(f"label_mass must lie in [0, 1], not {self.label_mass}")

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """Probability of the most probable label."""
        return math.exp(self.log_probs[0])


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One row of the escalation log.

    Attributes:
        sequence: Position in the log; grows, gaps are allowed.
        record: The request as the edge saw it.
        teacher: What the teacher said; None while nobody has asked.
        logged_unix_s: Gateway clock when the row became durable.
    """

    sequence: int
    record: EscalationRecord
    teacher: TeacherLabel | None
    logged_unix_s: float
