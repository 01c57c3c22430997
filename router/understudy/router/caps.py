"""Per-node caps: one node cannot spend the fleet's teacher.

A client can force escalations, by hostile inputs that lower the confidence or by claiming a low
one. The cap is a bucket of calls that refills with time; time arrives as an argument, and a clock
that goes back refills nothing. What the cap refuses is answered `overloaded`, so the edge degrades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from understudy.types.decision import RecordKind
from understudy.types.errors import InvalidValueError
from understudy.types.records import EscalationRecord


@dataclass(frozen=True, slots=True)
class Cap:
    """How much one node may ask.

    Attributes:
        calls_per_s: Calls a second in the long run, above 0.
        burst: Calls that may come at once, at least 1.
    """

    calls_per_s: float
    burst: float

    def __post_init__(self) -> None:
        if not (0.0 < self.calls_per_s < math.inf and 1.0 <= self.burst < math.inf):
            raise InvalidValueError("a cap needs calls_per_s above 0 and a burst of at least 1")


@dataclass(frozen=True, slots=True)
class Spent:
    """How far a node has used its cap.

    Attributes:
        left: Calls it may make at once.
        at_s: Latest time seen, seconds on any clock.
        allowed: True if the call that led here was allowed.
        retry_after_s: Seconds until the next call would be; 0 when allowed.
    """

    left: float
    at_s: float
    allowed: bool = True
    retry_after_s: float = 0.0


def spend(before: Spent | None, cap: Cap, now_s: float) -> Spent:
    """Charges one call.

    Over any time T no node is allowed more than `burst + T * calls_per_s` calls.

    Args:
        before: What the last call of this node left; None for its first.
        cap: The node's cap.
        now_s: The caller's clock, seconds.
    """
    old = before or Spent(cap.burst, now_s)
    at_s = max(now_s, old.at_s)
    left = min(cap.burst, old.left + (at_s - old.at_s) * cap.calls_per_s)
    if left >= 1.0:
        return Spent(left - 1.0, at_s)
    return Spent(left, at_s, allowed=False, retry_after_s=(1.0 - left) / cap.calls_per_s)


def is_consistent(record: EscalationRecord) -> bool:
    """Says whether a record can have come from the policy.

    An escalation has propensity 1; an audit has its coin, and the coin's rate as propensity;
    nothing is kept under the threshold. Records that fail are answered but prove nothing.
    """
    match record.kind:
        case RecordKind.ESCALATION:
            return record.propensity == 1.0
        case RecordKind.AUDIT:
            fair = record.propensity == record.audit_rate and record.audit_rate > 0.0
            return record.coin and fair and record.confidence >= record.threshold
        case RecordKind.DEGRADED:
            return True
    assert_never(record.kind)
