"""The watch over one bundle in the cloud: rows in, advice to the fleet out.

One account per bundle, fed with every row of the log, in any order, duplicates included; no clock
is read and no timestamp looked at. `to_dict` and `from_dict` let a gateway keep it through a
restart. Not thread-safe: one writer.

While nothing speaks against it, the night's certificate stands. On a drift alarm it is withdrawn,
the threshold rises to the lowest one proved since the alarm (none at first; not at all under
`on_uncertified: serve`), audits become as frequent as allowed and a night is asked for. It comes
back when rows since the alarm prove its threshold anew; a new bundle gets a new watch.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from understudy.router.budget import AuditRates
from understudy.router.drift import RUN_LENGTH, DriftDetector
from understudy.router.evidence import RowUse, evidence, is_error, use_of
from understudy.router.live import LiveRisk, default_grid
from understudy.router.noise import NoiseRule, Trust, judge
from understudy.types.contract import Certificate, Contract, OnUncertified
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow
from understudy.types.release import Directive

FORMAT = 1
REMEMBERED = 8192
"""Event ids kept against duplicates; older ones are the log's to refuse."""


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
class Advice:
    """What the fleet should do.

    Attributes:
        certificate_revoked: True if answers must say `certified=False`.
        threshold_floor: Threshold is raised to at least this; infinite: keep nothing.
        audit_rate: Audit rate to use; negative to keep the configured one.
        night: True if a distillation should run.
    """

    certificate_revoked: bool = False
    threshold_floor: float = 0.0
    audit_rate: float = -1.0
    night: bool = False

    def apply(self, directive: Directive) -> Directive:
        """Writes the advice into what a node is answered."""
        return replace(
            directive,
            certificate_revoked=self.certificate_revoked,
            threshold_floor=self.threshold_floor,
            audit_rate=self.audit_rate,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched.

    Attributes:
        bundle: Id of the bundle.
        contract: What it promised.
        threshold: The night's threshold; infinite when none was certified.
        rates: Between which rates audits may move.
        noise: What a teacher's label must bring.
        run_length: Requests until a false alarm, on average, at least.
    """

    bundle: str
    contract: Contract
    threshold: float
    rates: AuditRates = field(default_factory=AuditRates)
    noise: NoiseRule = field(default_factory=NoiseRule)
    run_length: float = RUN_LENGTH


class LiveMonitor:
    """The account of one bundle. `repr` tells its state."""

    def __init__(self, watch: Watch, grid: Sequence[float] | None = None) -> None:
        self.watch = watch
        self.live = LiveRisk.start(watch.contract, grid or default_grid(watch.threshold))
        self.drift = DriftDetector(watch.contract.max_quality_loss, watch.run_length)
        self.alarmed = False
        self.alarms = 0
        self.counts: Counter[str] = Counter()
        self._seen: OrderedDict[str, None] = OrderedDict()

    @classmethod
    def for_bundle(cls, bundle: str, certificate: Certificate) -> LiveMonitor:
        """Begins the watch over a bundle that was just released, with the default settings."""
        return cls(Watch(bundle, certificate.contract, certificate.threshold))

    def __repr__(self) -> str:
        return (
            f"<LiveMonitor {self.watch.bundle[:12]} {self.standing.value}, "
            f"{self.counts[RowUse.COUNTED]} rows, drift at {self.drift.level:.3g} of an alarm>"
        )

    def observe(self, row: LoggedRow, *, earlier: str = "", given_up: bool = False) -> RowUse:
        """Counts one row of the log.

        Args:
            row: The row; one without label waits, and may be shown again.
            earlier: What the teacher said of the same input before; empty when never asked.
            given_up: True if the label will never come: the row counts as an error.
        """
        use = self._use(row, earlier, given_up=given_up)
        self.counts[use.value] += 1
        if use is RowUse.COUNTED:
            self._count(row)
        return use

    @property
    def standing(self) -> Standing:
        """What the certificate rests on now."""
        if self.alarmed:
            return Standing.REVOKED
        if self.live.threshold <= self.watch.threshold < NEVER_KEEP:
            return Standing.LIVE
        return Standing.NONE if self.watch.threshold == NEVER_KEEP else Standing.NIGHT

    def advice(self, calm_audit_rate: float = -1.0) -> Advice:
        """Says what the fleet should do.

        Args:
            calm_audit_rate: Audit rate while nothing is wrong, such as
                `budget.affordable_audit_rate`; negative to leave the nodes' own.
        """
        if not self.alarmed:
            return Advice(audit_rate=calm_audit_rate)
        serving = self.watch.contract.on_uncertified is OnUncertified.SERVE
        return Advice(
            certificate_revoked=True,
            threshold_floor=0.0 if serving else self.live.threshold,
            audit_rate=self.watch.rates.ceiling,
            night=True,
        )

    def _use(self, row: LoggedRow, earlier: str, *, given_up: bool) -> RowUse:
        record = row.record
        use = use_of(record, self.watch.bundle)
        if use is not RowUse.COUNTED:
            return use
        if row.teacher is None and not given_up:
            return RowUse.WAITING
        if self._is_known(record.event_id):
            return RowUse.DUPLICATE
        if row.teacher is not None:
            trust = judge(row.teacher, self.watch.noise, earlier)
            if trust is not Trust.RELIABLE:
                self.counts[trust.value] += 1
                return RowUse.UNRELIABLE
        return RowUse.COUNTED

    def _is_known(self, event_id: str) -> bool:
        """Says whether the event was counted, and remembers it."""
        # A digest: ids come from outside and may be long, the memory is bounded in bytes too.
        key = hashlib.blake2b(event_id.encode(), digest_size=8).hexdigest()
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _count(self, row: LoggedRow) -> None:
        found = evidence(row.record, error=is_error(row))
        self.live = self.live.observe(found)
        if not self.alarmed:
            self.drift = self.drift.observe(found, self.watch.threshold)
            if self.drift.alarm:
                self._raise_alarm()
        elif self.live.threshold <= self.watch.threshold:
            self._end_alarm()

    def _raise_alarm(self) -> None:
        """From here on only rows after the change count."""
        self.alarmed = True
        self.alarms += 1
        self.live = LiveRisk.start(self.watch.contract, self.live.grid, attempt=self.alarms + 1)

    def _end_alarm(self) -> None:
        self.alarmed = False
        self.drift = DriftDetector(self.watch.contract.max_quality_loss, self.watch.run_length)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: numbers are finite, an infinite threshold is null."""
        threshold = self.watch.threshold
        return {
            "format": FORMAT,
            "bundle": self.watch.bundle,
            "threshold": None if threshold == NEVER_KEEP else threshold,
            "contract": _plain(self.watch.contract),
            "live": self.live.to_dict(),
            "drift": self.drift.to_dict(),
            "alarmed": self.alarmed,
            "alarms": self.alarms,
            "counts": dict(self.counts),
            "seen": list(self._seen),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], watch: Watch) -> LiveMonitor:
        """Goes on where `to_dict` stopped.

        Raises:
            DataError: If the data is of another bundle, contract or format, or is damaged.
        """
        try:
            return cls._restored(plain, watch)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"the saved watch cannot be used, start a new one: {error}") from error

    @classmethod
    def _restored(cls, plain: Mapping[str, Any], watch: Watch) -> LiveMonitor:
        stored = NEVER_KEEP if plain["threshold"] is None else float(plain["threshold"])
        found = (plain["format"], plain["bundle"], stored, plain["contract"])
        if found != (FORMAT, watch.bundle, watch.threshold, _plain(watch.contract)):
            raise ValueError("it belongs to another bundle, contract or version")
        restored = cls(watch)
        live, drift = LiveRisk.from_dict(plain["live"]), DriftDetector.from_dict(plain["drift"])
        restored.live, restored.drift = live, drift
        restored.alarmed, restored.alarms = bool(plain["alarmed"]), int(plain["alarms"])
        restored.counts = Counter({str(k): int(v) for k, v in plain["counts"].items()})
        restored._seen = OrderedDict.fromkeys(map(str, plain["seen"]))
        return restored


def _plain(contract: Contract) -> list[float | str]:
    """What two promises are compared by."""
    return [contract.max_quality_loss, contract.confidence, contract.kind.value]
