"""One promise under watch, the whole traffic's or a slice's: live proof, alarm, what follows.

While nothing speaks against the night's certificate it stands. An alarm withdraws it; from then on
only rows after the alarm count, and it comes back when they prove its threshold anew. Not
thread-safe: one writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from understudy.router.drift import DriftDetector
from understudy.router.evidence import Evidence
from understudy.router.live import LiveRisk, default_grid
from understudy.types.contract import Contract, OnUncertified
from understudy.types.decision import NEVER_KEEP


class Standing(StrEnum):
    """What the certificate rests on now."""

    NIGHT = "night"
    """The audited rows of the night; nothing speaks against them."""
    LIVE = "live"
    """The night's, and live labels prove it anew."""
    REVOKED = "revoked"
    """Drift: withdrawn until proved again."""
    NONE = "none"
    """There was none to begin with."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What one account watches.

    Attributes:
        contract: What was promised; its confidence is already this promise's share.
        threshold: The night's threshold; infinite when none was certified.
        run_length: Requests until a false alarm, on average, at least.
    """

    contract: Contract
    threshold: float
    run_length: float


class Account:
    """The account of one promise.

    Attributes:
        promise: What is watched.
        live: What live labels have proved, since the last alarm if there was one.
        drift: What speaks for a higher risk.
        alarmed: True while the certificate is withdrawn.
        alarms: How often it was.
        rows: Labelled rows counted.
    """

    def __init__(self, promise: Promise, grid: Sequence[float] | None = None) -> None:
        self.promise = promise
        self.live = LiveRisk.start(promise.contract, grid or default_grid(promise.threshold))
        self.drift = self._listen()
        self.alarmed = False
        self.alarms = 0
        self.rows = 0

    @property
    def standing(self) -> Standing:
        """What the certificate rests on now."""
        if self.alarmed:
            return Standing.REVOKED
        if self._is_proved():
            return Standing.LIVE
        return Standing.NONE if self.promise.threshold == NEVER_KEEP else Standing.NIGHT

    @property
    def floor(self) -> float:
        """The threshold to keep to: 0 in calm, after an alarm the lowest proved since."""
        serving = self.promise.contract.on_uncertified is OnUncertified.SERVE
        return self.live.threshold if self.alarmed and not serving else 0.0

    def count(self, row: Evidence) -> None:
        """Counts one labelled row."""
        self.rows += 1
        self.live = self.live.observe(row)
        if self.alarmed:
            if self._is_proved():
                self.alarmed, self.drift = False, self._listen()
            return
        self.drift = self.drift.observe(row, self.promise.threshold)
        if self.drift.alarm:
            self.withdraw()

    def withdraw(self) -> None:
        """Raises the alarm: from here on only rows after the change count."""
        self.alarmed = True
        self.alarms += 1
        contract, grid = self.promise.contract, self.live.grid
        self.live = LiveRisk.start(contract, grid, attempt=self.alarms + 1)

    def _is_proved(self) -> bool:
        return self.live.threshold <= self.promise.threshold < NEVER_KEEP

    def _listen(self) -> DriftDetector:
        return DriftDetector(self.promise.contract.max_quality_loss, self.promise.run_length)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "live": self.live.to_dict(),
            "drift": self.drift.to_dict(),
            "alarmed": self.alarmed,
            "alarms": self.alarms,
            "rows": self.rows,
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Goes on where `to_dict` stopped."""
        self.live = LiveRisk.from_dict(plain["live"])
        self.drift = DriftDetector.from_dict(plain["drift"])
        self.alarmed, self.alarms = bool(plain["alarmed"]), int(plain["alarms"])
        self.rows = int(plain["rows"])
