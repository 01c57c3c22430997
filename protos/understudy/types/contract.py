"""The quality contract a user states, and what was proved about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import InvalidValueError

MOST_SLICES = 32
"""Slices of one certificate; each narrows what all of them may spend of the doubt."""


class RiskKind(StrEnum):
    """Which risk the contract bounds."""

    JOINT = "joint"
    """P(kept and student differs from teacher), with the stated confidence."""
    SELECTIVE = "selective"
    """P(student differs from teacher | kept), with the stated confidence."""
    AVERAGE = "average"
    """The joint risk in expectation only: weaker, single calibrations may exceed it."""


class OnUncertified(StrEnum):
    """What the edge does while the contract is not certified."""

    ESCALATE = "escalate"
    SERVE = "serve"


class Precedence(StrEnum):
    """Who wins when contract and budget disagree."""

    QUALITY = "quality"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What quality a user can lose against the teacher.

    Attributes:
        max_quality_loss: Largest risk accepted, in (0, 1).
        confidence: Probability with which the bound must hold, in (0.5, 1).
        kind: Which risk.
        on_uncertified: What the edge does while nothing is certified.
        precedence: Who wins when contract and budget disagree.
    """

    max_quality_loss: float = 0.02
    confidence: float = 0.95
    kind: RiskKind = RiskKind.JOINT
    on_uncertified: OnUncertified = OnUncertified.ESCALATE
    precedence: Precedence = Precedence.QUALITY

    def __post_init__(self) -> None:
        if not 0.0 < self.max_quality_loss < 1.0:
            raise InvalidValueError(
                f"max_quality_loss must lie between 0 and 1, not {self.max_quality_loss}"
            )
        if not 0.5 < self.confidence < 1.0:
            raise InvalidValueError(f"confidence must lie between 0.5 and 1, not {self.confidence}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceCertificate:
    """The certificate of one slice of the traffic.

    Attributes:
        name: The slice.
        threshold: Its threshold, infinite when nothing may be kept.
        rows: Audited rows in it.
        inherited: True if too few rows: the parent's threshold is used.
    """

    name: str
    threshold: float
    rows: int
    inherited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was proved about one student on audited rows.

    Attributes:
        contract: What was to be proved.
        certified: True if a threshold keeps the contract.
        threshold: The lowest such threshold; infinite when none does.
        risk_upper_bound: Upper confidence bound of the risk at `threshold`; 0 when nothing is kept.
        keep_rate: Share of the audited rows at or above `threshold`.
        rows: Audited rows, none of them used for training.
        errors: Rows kept at `threshold` on which student and teacher differ.
        rows_missing: Further audited rows needed, as far as can be told; 0 when certified, and when
            no number of rows would help because the student errs too often where it is surest.
        rows_digest: sha256 over the audited event ids, sorted.
        issued_unix_s: When.
        expires_unix_s: Until when; infinite for ever.
        slices: Per-slice thresholds under a family-wise correction.
        unreliable_rows: Rows set aside because the teacher was not sure or contradicted itself.
        new_label_bound: Upper confidence bound of the share of labels the student cannot say, among
            requests under `threshold`; 1 when nothing is known of it.
    """

    contract: Contract
    certified: bool
    threshold: float
    risk_upper_bound: float
    keep_rate: float
    rows: int
    errors: int
    rows_missing: int
    rows_digest: str = ""
    issued_unix_s: float = 0.0
    expires_unix_s: float = math.inf
    slices: tuple[SliceCertificate, ...] = ()
    unreliable_rows: int = 0
    new_label_bound: float = 1.0

    def __post_init__(self) -> None:
        bounds = (self.risk_upper_bound, self.new_label_bound)
        if math.isnan(self.threshold) or not all(0.0 <= bound <= 1.0 for bound in bounds):
            raise InvalidValueError("a certificate needs a threshold and bounds in [0, 1]")
        if self.certified == (self.threshold == NEVER_KEEP):
            raise InvalidValueError("certified means that a finite threshold was found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How a student's numbers become one confidence; fitted on the graph that ships.

    Attributes:
        temperature: Divides the logits before the softmax, positive.
        score: Name of the score: `margin`, `max_prob`, `entropy`, `energy` or `learned`.
        weights: Parameters of the learned score by feature name; empty otherwise.
        knots_x: Raw scores at which the isotonic map is given, rising.
        knots_y: Confidence at those scores, rising, in [0, 1]; linear in between.
        ood_threshold: Similarity to the nearest prototype below which an input is foreign; -1
            switches the check off.
    """

    temperature: float = 1.0
    score: str = "margin"
    weights: Mapping[str, float] = field(default_factory=dict)
    knots_x: tuple[float, ...] = ()
    knots_y: tuple[float, ...] = ()
    ood_threshold: float = -1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise InvalidValueError(f"temperature must be positive, not {self.temperature}")
        if len(self.knots_x) != len(self.knots_y):
            raise InvalidValueError("an isotonic map needs as many confidences as scores")
