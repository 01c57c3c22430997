"""Keep or escalate: the decision about one request.

Standard library only, a few microseconds, no state. The coin is drawn first; then, in this order:

1. the threshold is the slice's or the bundle's, raised by what the cloud ordered;
2. numbers that cannot be used, and inputs unlike anything taught, count as confidence 0;
3. a confidence at or above the threshold is kept, everything else escalates;
4. under `precedence: budget` a spent budget keeps what should have escalated, uncertified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from understudy.router.audit import MAX_KEY_BYTES, MIN_KEY_BYTES, coin
from understudy.types.contract import Certificate, OnUncertified, Precedence
from understudy.types.decision import NEVER_KEEP, Action, Decision, Reason
from understudy.types.errors import InvalidValueError
from understudy.types.release import Directive


@dataclass(frozen=True, slots=True)
class Score:
    """What the student's numbers are worth.

    Attributes:
        confidence: Calibrated confidence in the student's label, in [0, 1]; 0 when not valid.
        foreign: True if the input resembles nothing the student was taught.
        valid: False if the numbers were not finite, not one a class, or one-hot.
    """

    confidence: float
    foreign: bool = False
    valid: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise InvalidValueError(f"confidence must lie in [0, 1], not {self.confidence}")
        if not self.valid and self.confidence > 0.0:
            raise InvalidValueError("an invalid score has confidence 0")


INVALID = Score(confidence=0.0, foreign=False, valid=False)
"""The score of numbers that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rule of one bundle under one contract; immutable, shared by all threads.

    Attributes:
        threshold: Lowest confidence that is kept; `NEVER_KEEP` when nothing is certified.
        audit_rate: Probability of the audit coin, in (0, 1]; a policy without audits is refused,
            because escalations alone cannot show that the student got worse.
        certified: True if a certificate covers `threshold`.
        audit_key: Secret of the node for the coin, 16 to 64 bytes.
        on_uncertified: What to do while nothing is certified.
        precedence: Who wins when contract and budget disagree.
        slices: Threshold by slice name, for slices with one of their own.
        threshold_floor: Threshold ordered by the cloud; only ever raises.
        revoked: True if the cloud withdrew the certificate.
        revoked_slices: Floor by slice name, for slices of which it withdrew the certificate.
    """

    threshold: float
    audit_rate: float
    certified: bool
    audit_key: bytes = field(repr=False)
    on_uncertified: OnUncertified = OnUncertified.ESCALATE
    precedence: Precedence = Precedence.QUALITY
    slices: Mapping[str, float] = field(default_factory=dict)
    threshold_floor: float = 0.0
    revoked: bool = False
    revoked_slices: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.audit_rate <= 1.0:
            raise InvalidValueError(f"audit_rate must lie in (0, 1], not {self.audit_rate}")
        if not MIN_KEY_BYTES <= len(self.audit_key) <= MAX_KEY_BYTES:
            raise InvalidValueError(f"audit_key needs {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes")
        if any(
            math.isnan(t) for t in (self.threshold, self.threshold_floor, *self.slices.values())
        ):
            raise InvalidValueError("thresholds must be numbers")

    @classmethod
    def from_certificate(
        cls, certificate: Certificate, *, audit_rate: float, audit_key: bytes
    ) -> Policy:
        """Builds the policy a certificate allows."""
        return cls(
            threshold=certificate.threshold,
            audit_rate=audit_rate,
            certified=certificate.certified,
            audit_key=audit_key,
            on_uncertified=certificate.contract.on_uncertified,
            precedence=certificate.contract.precedence,
            slices={s.name: s.threshold for s in certificate.slices},
        )

    def with_directive(self, directive: Directive) -> Policy:
        """Applies what the cloud answered to a check-in.

        A directive can only be careful: it raises thresholds and the audit rate, and withdraws
        certificates. A rate that is none leaves this policy's; a floor that is no number keeps
        nothing. Apply it to the policy without orders: what is no longer ordered no longer holds.
        """
        rate = directive.audit_rate
        return replace(
            self,
            threshold_floor=_careful(directive.threshold_floor),
            revoked=directive.certificate_revoked,
            audit_rate=min(max(rate, self.audit_rate), 1.0) if rate > 0.0 else self.audit_rate,
            revoked_slices={s.name: _careful(s.threshold_floor) for s in directive.revoked_slices},
        )

    def covers(self, slice_name: str) -> bool:
        """True if a certificate stands behind answers of this slice; "" for traffic without one."""
        return self.certified and not self.revoked and slice_name not in self.revoked_slices

    def decide(
        self,
        score: Score,
        request_key: str,
        *,
        slice_name: str = "",
        budget_threshold: float = NEVER_KEEP,
    ) -> Decision:
        """Decides about one request.

        Args:
            score: What the student's numbers are worth.
            request_key: Id of the request, made by the edge; decides the coin.
            slice_name: Slice the request belongs to; empty for none.
            budget_threshold: Threshold the budget still allows; infinite when it allows all. It
                counts under `precedence: budget` only.
        """
        # The coin first: nothing below may depend on it, and it depends on nothing below.
        audit = coin(self.audit_key, request_key, self.audit_rate)
        own = self._own_threshold(slice_name)
        wanted = max(self.threshold_floor, own, self.revoked_slices.get(slice_name, 0.0))
        usable = score.valid and not score.foreign
        if usable and score.confidence >= wanted:
            reason = Reason.CONFIDENT if self.certified else Reason.UNCERTIFIED
            rate, sure = self.audit_rate, self.covers(slice_name)
            return Decision(Action.KEEP, audit, rate, wanted, reason, sure)
        if self.precedence is Precedence.BUDGET:
            affordable = score.confidence if usable else 0.0
            if affordable >= budget_threshold:
                rate, why = self.audit_rate, Reason.NO_BUDGET
                return Decision(Action.KEEP, audit, rate, budget_threshold, why, certified=False)
        why = self._why(score, own)
        return Decision(Action.ESCALATE, audit, 1.0, wanted, why, certified=False)

    def _own_threshold(self, slice_name: str) -> float:
        """The threshold before the cloud's orders; what is not certified escalates or is served."""
        own = self.slices.get(slice_name, self.threshold) if self.slices else self.threshold
        if self.certified:
            return own
        if self.on_uncertified is OnUncertified.ESCALATE:
            return NEVER_KEEP
        return 0.0 if own == NEVER_KEEP else own

    def _why(self, score: Score, own: float) -> Reason:
        if not score.valid:
            return Reason.INVALID_SCORE
        if score.foreign:
            return Reason.OUT_OF_DISTRIBUTION
        if own == NEVER_KEEP:
            return Reason.UNCERTIFIED
        return Reason.UNSURE if score.confidence < own else Reason.DRIFT


def _careful(floor: float) -> float:
    return NEVER_KEEP if math.isnan(floor) else max(0.0, floor)
