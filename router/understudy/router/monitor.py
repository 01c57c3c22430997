"""The watch over one bundle in the cloud: rows in, advice to the fleet out.

One account for all traffic and one for each certified slice, fed with every row of the log, in any
order, duplicates included; no clock is read and no timestamp looked at. `to_dict` and `from_dict`
let a gateway keep it through a restart. Not thread-safe: one writer.

All promises of a bundle share the contract's doubt, all alarms its rate of false ones. Two things
withdraw a certificate:

* **risk**, the whole's or a slice's: kept answers are wrong more often than was promised (`drift`);
* **new labels**, the whole's: of what escalates anyway, more goes to labels the student cannot say
  than did among the rows that certified. It needs no audit, so a new kind of request is heard of
  within dozens of requests; it says that traffic is not what was certified, not how large the risk
  is.

On an alarm the threshold rises to the lowest one proved since (none at first; not at all under
`on_uncertified: serve`), audits become as frequent as allowed and a night is asked for. The
certificate comes back when rows since the alarm prove its threshold anew; a new bundle gets a new
watch.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from understudy.router.account import Account, Promise, Standing
from understudy.router.budget import AuditRates
from understudy.router.drift import RUN_LENGTH, DriftDetector
from understudy.router.evidence import Evidence, RowUse, evidence, is_error, use_of
from understudy.router.live import LiveRisk
from understudy.router.noise import NoiseRule, Trust, judge
from understudy.types.contract import MOST_SLICES, Certificate, Contract, SliceCertificate
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow
from understudy.types.release import Directive, SliceOrder

__all__ = ["Advice", "Cause", "LiveMonitor", "Standing", "Watch"]

FORMAT = 2
REMEMBERED = 8192
"""Event ids kept against duplicates; older ones are the log's to refuse."""


class Cause(StrEnum):
    """Why a certificate was withdrawn."""

    NONE = ""
    RISK = "risk"
    """Kept answers are wrong more often than was promised."""
    NEW_LABELS = "new_labels"
    """Requests came that the student has no label for, more often than when it was certified."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What the fleet should do.

    Attributes:
        certificate_revoked: True if answers must say `certified=False`.
        threshold_floor: Threshold is raised to at least this; infinite: keep nothing.
        audit_rate: Audit rate to raise to; negative to keep the configured one.
        night: True if a distillation should run.
        revoked_slices: Slices whose certificate is withdrawn, with a floor of their own.
    """

    certificate_revoked: bool = False
    threshold_floor: float = 0.0
    audit_rate: float = -1.0
    night: bool = False
    revoked_slices: tuple[SliceOrder, ...] = ()

    def apply(self, directive: Directive) -> Directive:
        """Writes the advice into what a node is answered."""
        return replace(
            directive,
            certificate_revoked=self.certificate_revoked,
            threshold_floor=self.threshold_floor,
            audit_rate=self.audit_rate,
            revoked_slices=self.revoked_slices,
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
        run_length: Requests until a false alarm of any kind, on average, at least.
        slices: Slices with a promise of their own, at most `MOST_SLICES`.
        labels: What the student can say; empty if not known.
        new_label_bound: Largest share of other labels among what escalates, as certified; 1 when
            nothing is known of it, and then nobody listens for them.
    """

    bundle: str
    contract: Contract
    threshold: float
    rates: AuditRates = field(default_factory=AuditRates)
    noise: NoiseRule = field(default_factory=NoiseRule)
    run_length: float = RUN_LENGTH
    slices: tuple[SliceCertificate, ...] = ()
    labels: frozenset[str] = frozenset()
    new_label_bound: float = 1.0

    @classmethod
    def over(cls, bundle: str, certificate: Certificate, labels: Iterable[str] = ()) -> Watch:
        """What a released bundle is watched for.

        A slice that inherited its threshold promised nothing of its own, and one that keeps
        nothing cannot lose anything.
        """
        own = [s for s in certificate.slices if not s.inherited and s.threshold < NEVER_KEEP]
        own.sort(key=lambda part: (-part.rows, part.name))
        return cls(
            bundle,
            certificate.contract,
            certificate.threshold,
            slices=tuple(own[:MOST_SLICES]),
            labels=frozenset(labels),
            new_label_bound=certificate.new_label_bound,
        )

    @property
    def hears_new_labels(self) -> bool:
        """True if it is known what share of new labels is ordinary."""
        return bool(self.labels) and 0.0 < self.new_label_bound < 1.0

    @property
    def alarm_run_length(self) -> float:
        """The run length of each alarm, so that all of them together keep `run_length`.

        Were the mean of the detectors one detector, it would alarm no later than the first of them.
        """
        return self.run_length * (1 + len(self.slices) + self.hears_new_labels)

    def promise(self, threshold: float) -> Promise:
        """One of the promises, with its share of the doubt (Bonferroni)."""
        doubt = (1.0 - self.contract.confidence) / (1 + len(self.slices))
        shared = replace(self.contract, confidence=1.0 - doubt)
        return Promise(shared, threshold, self.alarm_run_length)


class LiveMonitor:
    """The watch over one bundle. `repr` tells its state.

    Attributes:
        watch: What is watched.
        whole: The account of all traffic.
        slices: The accounts of slices by name.
        news: Listens for labels the student cannot say; None when nobody does, or has to any more.
        cause: Why the whole's certificate was withdrawn last.
        changes: Sequence of the row that raised the last alarm, by slice, "" for the whole. Rows up
            to there are of other traffic than today's.
        counts: Rows by what became of them.
    """

    def __init__(self, watch: Watch, grid: Sequence[float] | None = None) -> None:
        self.watch = watch
        self.whole = Account(watch.promise(watch.threshold), grid)
        self.slices = {s.name: Account(watch.promise(s.threshold)) for s in watch.slices}
        self.news: DriftDetector | None = None
        if watch.hears_new_labels:
            self.news = DriftDetector(watch.new_label_bound, watch.alarm_run_length)
        self.cause = Cause.NONE
        self.changes: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self._seen: OrderedDict[str, None] = OrderedDict()

    @classmethod
    def for_bundle(
        cls, bundle: str, certificate: Certificate, labels: Iterable[str] = ()
    ) -> LiveMonitor:
        """Begins the watch over a bundle that was just released, with the default settings."""
        return cls(Watch.over(bundle, certificate, labels))

    def __repr__(self) -> str:
        return (
            f"<LiveMonitor {self.watch.bundle[:12]} {self.standing.value}, "
            f"{self.counts[RowUse.COUNTED]} rows, drift at {self.level:.3g} of an alarm>"
        )

    @property
    def standing(self) -> Standing:
        """What the whole's certificate rests on now."""
        return self.whole.standing

    @property
    def live(self) -> LiveRisk:
        """The whole's live proof."""
        return self.whole.live

    @property
    def drift(self) -> DriftDetector:
        """What speaks for a higher risk of the whole."""
        return self.whole.drift

    @property
    def alarmed(self) -> bool:
        """True while the whole's certificate is withdrawn."""
        return self.whole.alarmed

    @property
    def level(self) -> float:
        """How near the whole is to an alarm of either kind; 1 is one."""
        return max(self.drift.level, self.news.level if self.news is not None else 0.0)

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

    def advice(self, calm_audit_rate: float = -1.0) -> Advice:
        """Says what the fleet should do.

        Args:
            calm_audit_rate: Audit rate while nothing is wrong, such as
                `budget.affordable_audit_rate`; negative to leave the nodes' own.
        """
        lost = tuple(SliceOrder(n, a.floor) for n, a in self.slices.items() if a.alarmed)
        troubled = self.alarmed or bool(lost)
        return Advice(
            certificate_revoked=self.alarmed,
            threshold_floor=self.whole.floor,
            audit_rate=self.watch.rates.ceiling if troubled else calm_audit_rate,
            night=troubled,
            revoked_slices=lost,
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
        found, alarms = evidence(row.record, error=is_error(row)), self.whole.alarms
        self.whole.count(found)
        self._count_slice(row, found)
        cause = Cause.RISK
        if self.whole.alarms == alarms and self._is_news(row, found):
            self.whole.withdraw()
            cause = Cause.NEW_LABELS
        if self.whole.alarms > alarms:
            self.cause, self.changes[""] = cause, row.sequence
            # Traffic is known to be new now; whether the contract holds on it, the risk tells.
            self.news = None

    def _count_slice(self, row: LoggedRow, found: Evidence) -> None:
        name = row.record.slice_name
        part = self.slices.get(name)
        if part is None:
            return
        alarms = part.alarms
        part.count(found)
        if part.alarms > alarms:
            self.changes[name] = row.sequence

    def _is_news(self, row: LoggedRow, found: Evidence) -> bool:
        """Listens to one row; True if more labels are new than when the bundle was certified.

        Only rows under the night's threshold count: they escalate under any orders, so their labels
        are all known.
        """
        escalates = found.confidence < self.watch.threshold
        if self.news is None or row.teacher is None or not escalates:
            return False
        new = row.teacher.label not in self.watch.labels
        self.counts["new_label"] += new
        self.news = self.news.hear(happened=new)
        return self.news.alarm

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: numbers are finite, an infinite threshold is null."""
        return {
            "format": FORMAT,
            "watch": _plain(self.watch),
            "whole": self.whole.to_dict(),
            "slices": {name: account.to_dict() for name, account in self.slices.items()},
            "news": None if self.news is None else self.news.to_dict(),
            "cause": self.cause.value,
            "changes": self.changes,
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
        if (plain["format"], plain["watch"]) != (FORMAT, _plain(watch)):
            raise ValueError("it belongs to another bundle, contract or version")
        restored = cls(watch)
        restored.whole.restore(plain["whole"])
        for name, account in restored.slices.items():
            account.restore(plain["slices"][name])
        heard = plain["news"]
        restored.news = None if heard is None else DriftDetector.from_dict(heard)
        restored.cause = Cause(plain["cause"])
        restored.changes = {str(k): int(v) for k, v in plain["changes"].items()}
        restored.counts = Counter({str(k): int(v) for k, v in plain["counts"].items()})
        restored._seen = OrderedDict.fromkeys(map(str, plain["seen"]))
        return restored


def _plain(watch: Watch) -> dict[str, Any]:
    """What two watches are compared by."""
    contract = watch.contract
    return {
        "bundle": watch.bundle,
        "threshold": None if watch.threshold == NEVER_KEEP else watch.threshold,
        "contract": [contract.max_quality_loss, contract.confidence, contract.kind.value],
        "slices": {part.name: part.threshold for part in watch.slices},
        "new_labels": watch.new_label_bound if watch.hears_new_labels else None,
    }
