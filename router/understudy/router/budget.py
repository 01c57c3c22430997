"""The budget governor: holds the share of teacher calls on any data, by a deterministic bound.

Standard library only; a value and a step. The threshold falls a little with every call and rises a
little with every request that needed none:

    next = min(threshold + gain * (budget - spent), 1 + gain)

A request escalates only while its confidence lies under the threshold, so the threshold never falls
under `-gain` by escalations, and after T requests, whatever they were,

    escalations <= budget * T + (first threshold + gain) / gain

The clip at the top keeps a quiet day from saving up for a burst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from understudy.types.errors import InvalidValueError

GAIN = 0.02


@dataclass(frozen=True, slots=True)
class Governor:
    """The state of the budget after some requests; immutable.

    Attributes:
        budget: Largest share of requests that may call the teacher, in (0, 1].
        threshold: Threshold the budget allows now, in [-gain, 1 + gain] (lower while audits go on
            although the budget is spent).
        gain: How fast the threshold follows, in (0, 1).
    """

    budget: float
    threshold: float = 0.5
    gain: float = GAIN

    def __post_init__(self) -> None:
        if not 0.0 < self.budget <= 1.0:
            raise InvalidValueError(f"budget must lie in (0, 1], not {self.budget}")
        if not 0.0 < self.gain < 1.0:
            raise InvalidValueError(f"gain must lie between 0 and 1, not {self.gain}")
        if not self.threshold <= 1.0 + self.gain:
            raise InvalidValueError(f"threshold must be at most 1 + gain, not {self.threshold}")

    def step(self, *, spent: bool) -> Governor:
        """Moves on by one request.

        Args:
            spent: True if the request called the teacher, as escalation or as audit.
        """
        moved = self.threshold + self.gain * (self.budget - spent)
        return Governor(self.budget, min(moved, 1.0 + self.gain), self.gain)

    def most_escalations(self, requests: int) -> float:
        """The bound from here on: no stream of `requests` requests escalates more often."""
        reserve = max(0.0, self.threshold + self.gain) / self.gain
        return self.budget * requests + reserve


@dataclass(frozen=True, slots=True)
class AuditRates:
    """Between which rates audits may move.

    Attributes:
        floor: Lowest rate, above zero: a fleet without audits is blind.
        ceiling: Highest rate.
    """

    floor: float = 0.005
    ceiling: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.floor <= self.ceiling <= 1.0:
            raise InvalidValueError("audit rates need 0 < floor <= ceiling <= 1")

    def within(self, rate: float) -> float:
        """The nearest rate that is allowed; the floor for what is no number."""
        return self.floor if math.isnan(rate) else min(max(rate, self.floor), self.ceiling)


def affordable_audit_rate(budget: float, escalated_share: float, rates: AuditRates) -> float:
    """The audit rate that spends what escalations leave of the budget.

    All calls are escalations plus audits of what is kept: E + rate * (1 - E) = budget. To be fixed
    before a request is seen, and logged with it.

    Args:
        budget: Largest share of requests that may call the teacher.
        escalated_share: Share that escalated lately, in [0, 1].
        rates: Between which rates audits may move.
    """
    if not 0.0 <= escalated_share <= 1.0:
        raise InvalidValueError(f"escalated_share must lie in [0, 1], not {escalated_share}")
    kept = 1.0 - escalated_share
    return rates.within((budget - escalated_share) / kept if kept > 0.0 else rates.floor)


def early_budget(budget: float, progress: float, lead: float = 0.5) -> float:
    """The budget at one point of a stream whose length is known: more early, the same in all.

    A label asked for early teaches all that follows. Falls on a straight line from `budget * (1 +
    lead)` to `budget * (1 - lead)`; its mean is `budget`, so the governor's bound holds for the
    whole.

    Args:
        budget: Largest share of requests that may call the teacher, over the whole stream.
        progress: Share of the stream that is over, in [0, 1].
        lead: How uneven, in [0, 1).
    """
    if not (0.0 <= progress <= 1.0 and 0.0 <= lead < 1.0):
        raise InvalidValueError("progress must lie in [0, 1] and lead in [0, 1)")
    return min(1.0, budget * (1.0 + lead * (1.0 - 2.0 * progress)))
