"""The drift alarm: an e-detector (Shiryaev-Roberts) with a bounded rate of false alarms.

Escalations alone cannot see drift: a student that meets what it was never taught is often sure and
wrong. The detector listens to the weighted labels. For each of a few fixed bets x,

    evidence = evidence * (1 + x * weight * (wrongly kept - rate)) + requests the row stands for

While the risk keeps the contract, the evidence grows by no more than one a request on average, so
the mean number of requests until a false alarm is at least `run_length`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from understudy.router.evidence import Evidence
from understudy.types.errors import InvalidValueError

BETS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""From a risk slightly above the contract to one that is several times as large."""
RUN_LENGTH = 100_000.0


@dataclass(frozen=True, slots=True)
class DriftDetector:
    """What speaks for a change so far; immutable.

    Attributes:
        rate: The contract's largest risk, in (0, 1).
        run_length: Requests until a false alarm, on average, at least.
        evidence: One number a bet.
    """

    rate: float
    run_length: float = RUN_LENGTH
    evidence: tuple[float, ...] = (0.0,) * len(BETS)

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0 or self.run_length < 1.0:
            raise InvalidValueError("a detector needs a rate in (0, 1) and a run length above 1")
        if len(self.evidence) != len(BETS) or not all(e >= 0.0 for e in self.evidence):
            raise InvalidValueError("a detector keeps one number at or above zero a bet")

    def observe(self, row: Evidence, threshold: float) -> DriftDetector:
        """Counts one labelled row against the threshold that was certified."""
        wrong = row.wrongly_kept(threshold)
        return self.hear(happened=wrong, weight=row.weight, requests=row.requests)

    def hear(self, *, happened: bool, weight: float = 1.0, requests: float = 1.0) -> DriftDetector:
        """Counts one observation of an event that should happen no more often than `rate`.

        Args:
            happened: True if it did.
            weight: The observation's share of a full vote, in (0, 1].
            requests: How many requests it stands for.
        """
        surprise = weight * (happened - self.rate)
        # No factor may be negative, hence the cap of a bet at 1 / rate; no sum may overflow.
        moved = tuple(
            min(e * (1.0 + min(x, 1.0 / self.rate) * surprise) + requests, 1e300)
            for e, x in zip(self.evidence, BETS, strict=True)
        )
        return replace(self, evidence=moved)

    @property
    def level(self) -> float:
        """The evidence as a share of what raises the alarm; 1 and above is an alarm."""
        return sum(self.evidence) / len(BETS) / self.run_length

    @property
    def alarm(self) -> bool:
        """True if the risk has risen above the contract."""
        return self.level >= 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rate": self.rate,
            "run_length": self.run_length,
            "evidence": list(self.evidence),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DriftDetector:
        """Reads what `to_dict` wrote."""
        return cls(
            float(plain["rate"]), float(plain["run_length"]), tuple(map(float, plain["evidence"]))
        )
