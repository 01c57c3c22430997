"""The live certificate: an e-process on weighted audits, valid at every moment.

For each threshold of a grid, and each of a few fixed bets f, a wealth that starts at 1 is
multiplied for every labelled row by

    1 + f * weight * (rate - wrongly kept) / (1 - rate)

If the risk at that threshold is above the rate, no wealth grows on average, so the chance that the
mean over the bets ever reaches 1/delta is at most delta (Ville). Fixed bets make the account
independent of the order in which labels arrive, up to the cap.

* Joint risk falls as the threshold rises: the walk from strict to loose, ended by the first
  threshold without proof, needs no correction. Selective risk does not, and pays for its grid.
* Live, not latched: proof is what the wealth is now, not what it once was.
* Capped: no wealth exceeds `CAP / delta`, so that a good year cannot pay for a bad week. In any
  stretch of rows that ends while a threshold stands, the errors are at most `most_errors`.
* A new bundle starts again at 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.router.evidence import Evidence
from understudy.types.contract import Contract, RiskKind
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import InvalidValueError

BETS = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the largest fair bet; an error costs as much of the wealth."""
CAP = 10.0
"""How far above proof a wealth may rise."""
MOST_POINTS = 101

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LiveRisk:
    """What the labels of one bundle have proved so far; immutable.

    Attributes:
        rate: The contract's largest risk.
        delta: Probability with which the proof may fail.
        selective: True if the risk is that of kept answers only.
        grid: Thresholds, strict to loose, at most `MOST_POINTS`.
        log_wealth: Natural logarithm of the wealth, shape (G, bets).
    """

    rate: float
    delta: float
    selective: bool
    grid: tuple[float, ...]
    log_wealth: Floats

    def __post_init__(self) -> None:
        if not 1 <= len(self.grid) <= MOST_POINTS:
            raise InvalidValueError(f"a grid has 1 to {MOST_POINTS} thresholds")
        if any(a <= b for a, b in zip(self.grid, self.grid[1:], strict=False)):
            raise InvalidValueError("a grid falls, from strict to loose")
        if self.log_wealth.shape != (len(self.grid), len(BETS)):
            raise InvalidValueError("wealth needs one row a threshold and one column a bet")

    @classmethod
    def start(cls, contract: Contract, grid: Sequence[float], *, attempt: int = 1) -> LiveRisk:
        """Begins for a new bundle.

        Args:
            contract: What is to be proved.
            grid: Thresholds, strict to loose.
            attempt: 1 for a bundle's first account, 2 for one begun after an alarm, and so on; all
                attempts together keep the contract's doubt.
        """
        return cls(
            rate=contract.max_quality_loss,
            delta=(1.0 - contract.confidence) / (attempt * (attempt + 1)),
            selective=contract.kind is RiskKind.SELECTIVE,
            grid=tuple(grid),
            log_wealth=np.zeros((len(grid), len(BETS))),
        )

    def observe(self, row: Evidence) -> LiveRisk:
        """Counts one labelled row."""
        kept = row.confidence >= np.array(self.grid)
        loss = kept & row.error
        fair = kept if self.selective else np.ones_like(kept)
        stake = np.array(BETS) * (row.weight / (1.0 - self.rate))
        gain = np.log1p(np.outer(self.rate * fair - loss, stake))
        return replace(self, log_wealth=np.minimum(self.log_wealth + gain, self.log_cap))

    @property
    def log_cap(self) -> float:
        """Where a wealth stops growing."""
        return self.log_proof + math.log(CAP)

    @property
    def log_proof(self) -> float:
        """The wealth that is proof, as logarithm."""
        looks = len(self.grid) if self.selective else 1
        return math.log(looks / self.delta)

    @property
    def log_evidence(self) -> Floats:
        """The mean wealth of each threshold, as logarithm, shape (G,)."""
        top = self.log_wealth.max(axis=1)
        found: Floats = top + np.log(np.exp(self.log_wealth - top[:, None]).mean(axis=1))
        return found

    @property
    def threshold(self) -> float:
        """The lowest threshold proved now; `NEVER_KEEP` when none is."""
        proved = self.log_evidence >= self.log_proof
        if not self.selective:
            proved = np.logical_and.accumulate(proved)
        places = np.flatnonzero(proved)
        return self.grid[int(places[-1])] if len(places) else NEVER_KEEP

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rate": self.rate,
            "delta": self.delta,
            "selective": self.selective,
            "grid": list(self.grid),
            "log_wealth": self.log_wealth.tolist(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LiveRisk:
        """Reads what `to_dict` wrote."""
        wealth = np.array(plain["log_wealth"], dtype=np.float64)
        return cls(
            rate=float(plain["rate"]),
            delta=float(plain["delta"]),
            selective=bool(plain["selective"]),
            grid=tuple(map(float, plain["grid"])),
            log_wealth=wealth.reshape(len(plain["grid"]), -1),
        )


def most_errors(rows: int, rate: float) -> int:
    """The most wrongly kept rows in any stretch of `rows` full-weight rows that ends in proof.

    Holds on any data: while the mean of the wealths is proof one of them is, and none of them was
    ever more than `CAP` times proof.
    """
    return max(_most_errors(rows, rate, bet) for bet in BETS)


def _most_errors(rows: int, rate: float, bet: float) -> int:
    won = math.log1p(bet * rate / (1.0 - rate))
    lost = -math.log1p(-bet)
    most = (math.log(CAP) + rows * won) / (lost + won) + 1e-9
    return rows if most >= rows else math.floor(most)


def default_grid(threshold: float, points: int = 21) -> tuple[float, ...]:
    """Thresholds from 1 down to the certified one; down to 0 when nothing is certified."""
    low = 0.0 if threshold == NEVER_KEEP else threshold
    if low >= 1.0:
        return (low,)
    return tuple(np.linspace(1.0, low, points).tolist())
