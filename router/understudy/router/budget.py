"""The budget governor: holds the share of teacher calls on any data, by a deterministic bound.

Standard library only; a value and a step. The threshold falls a little with every call and rises a
little with every request that needed none:

    next = min(threshold + gain * (budget - spent), 1 + gain)

A request escalates only while its confidence lies under the threshold, so the threshold never falls
under `-gain` by escalations, and after T requests, whatever they were,

    escalations <= budget * T + (first threshold + gain) / gain

The clip at the top keeps a quiet day from saving up for a burst.

What is compared with the threshold may be the confidence itself, or its rank among recent ones
(`rank_threshold`). The bound is the same; with ranks a threshold of 0.2 means the fifth of the
traffic that is least sure, whatever scale a student's confidence has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.types.decision import NEVER_KEEP
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


@dataclass(frozen=True, slots=True)
class Spending:
    """How a budget is spread over requests: evenly, or more at first.

    Attributes:
        budget: Largest share of requests that may call the teacher, in (0, 1].
        lead: How much more at first, in [0, 1); 0 spends evenly.
        requests: Over how many requests the lead is paid back; later ones spend evenly.
    """

    budget: float
    lead: float = 0.0
    requests: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.lead < 1.0 or self.requests < 0:
            raise InvalidValueError("lead must lie in [0, 1) and requests must not be negative")

    def at(self, number: int) -> float:
        """The budget at one request, counted from 0; its sum over T requests is at most
        `budget * T` for every T from `requests` on.
        """
        if number >= self.requests:
            return self.budget
        return early_budget(self.budget, (number + 0.5) / self.requests, self.lead)


def rank_threshold(recent: Sequence[float], share: float) -> float:
    """The confidence below which `share` of the recent requests lie: where ranks meet scores.

    Args:
        recent: Confidences of recent requests, rising.
        share: A governor's threshold; 0 and less keeps everything, above 1 nothing.

    Returns:
        A confidence is at or above it exactly when at least that share of `recent` is smaller.
    """
    below = math.ceil(share * len(recent))
    if share > 1.0 or (not recent and share > 0.0):
        return NEVER_KEEP
    return math.nextafter(recent[below - 1], math.inf) if below > 0 else min(share, 0.0)
