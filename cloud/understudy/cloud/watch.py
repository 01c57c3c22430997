"""The live watch over the contract: every row of the log in, advice for the nodes out.

One process holds the lease and watches; all of them read its advice from the shared state. Place in
the log, rows that wait for their label and the accounts themselves are saved as one value, so that
a crash repeats a step and never half of one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from understudy.cloud.gateway.ports import Releases
from understudy.cloud.log import EscalationLog
from understudy.cloud.state import SharedState
from understudy.router.account import Account
from understudy.router.evidence import RowUse
from understudy.router.monitor import Advice, LiveMonitor, Watch
from understudy.router.noise import Sayings
from understudy.types.bundle import CERTIFICATE, decode_manifest
from understudy.types.contract import Certificate, Contract
from understudy.types.errors import BundleError, DataError
from understudy.types.records import LoggedRow
from understudy.types.release import Directive, NodeStatus, SliceOrder

_STATE, _ADVICE, _CHANGE = "watch/state", "advice/", "change/"
_STEP_ROWS = 1024
_REST_ROWS = 64
_MAX_BUNDLES = 8
_MAX_WAITING = 20_000
_MAX_UNKNOWN = 1000
_LOOK_AGAIN_S = 60.0
"""A bundle that was never published is not looked for with every row."""
_GIVE_UP_S = 3 * 86_400.0
"""A row whose label has not come by then counts as an error: silence is no agreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceStanding:
    """How the contract of one slice stands.

    Attributes:
        name: The slice.
        standing: `night`, `live` or `revoked`.
        certificate_revoked: Goes into the directive.
        threshold_floor: Goes into the directive; None for infinite.
        drift: How near its drift detector is to an alarm; 1 is one.
        rows: Labelled rows counted.
        threshold: Threshold of the night's certificate.
    """

    name: str
    standing: str
    certificate_revoked: bool
    threshold_floor: float | None
    drift: float
    rows: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStanding:
    """How the contract of one bundle stands, for nodes, metrics and the operator.

    Attributes:
        bundle: Id of the bundle.
        task: Its task.
        standing: `night`, `live`, `revoked` or `none`.
        certificate_revoked: Goes into the directive.
        threshold_floor: Goes into the directive; None for infinite.
        audit_rate: Goes into the directive.
        night: True if a night is asked for.
        drift: How near the drift detector is to an alarm; 1 is one.
        rows: Labelled rows counted.
        threshold: Threshold of the night's certificate; None for infinite.
        risk_upper_bound: Its bound.
        cause: Why the certificate was withdrawn: `risk`, `new_labels`, or nothing.
        slices: Those with a promise of their own.
    """

    bundle: str
    task: str
    standing: str
    certificate_revoked: bool
    threshold_floor: float | None
    audit_rate: float
    night: bool
    drift: float
    rows: int
    threshold: float | None
    risk_upper_bound: float
    cause: str = ""
    slices: tuple[SliceStanding, ...] = ()

    @property
    def advice(self) -> Advice:
        """The same as the router's noun."""
        return Advice(
            self.certificate_revoked,
            _infinite(self.threshold_floor),
            self.audit_rate,
            self.night,
            tuple(
                SliceOrder(part.name, _infinite(part.threshold_floor))
                for part in self.slices
                if part.certificate_revoked
            ),
        )


class SharedAdvice:
    """What the watch last said, as every process sees it."""

    def __init__(self, state: SharedState) -> None:
        self._state = state
        self.standings: Mapping[str, BundleStanding] = {}

    def refresh(self) -> None:
        """Reads what the watching process has written; blocks."""
        found = self._state.items(_ADVICE)
        self.standings = {
            key.removeprefix(_ADVICE): msgspec.json.decode(value, type=BundleStanding)
            for key, value in found.items()
        }

    def advise(self, directive: Directive, status: NodeStatus) -> Directive:
        """The directive, tightened where the watch has seen trouble with the node's bundle."""
        standing = self.standings.get(status.bundle)
        return directive if standing is None else standing.advice.apply(directive)


@dataclass(slots=True)
class _Watched:
    task: str
    certificate: Certificate
    monitor: LiveMonitor


@dataclass(slots=True)
class _Progress:
    """What is saved after each step."""

    cursor: int = 0
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Event id and node by sequence, of rows without label."""
    monitors: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: Sayings = field(default_factory=Sayings)
    """Of the teacher, whichever bundle asked."""
    changes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sequence by task and slice ("" for all): rows up to there are of other traffic."""

    @classmethod
    def from_json(cls, saved: bytes) -> _Progress:
        """Reads what `to_json` wrote."""
        plain = json.loads(saved)
        return cls(**plain | {"said": Sayings(plain.get("said"))})

    def to_json(self) -> bytes:
        """One value, so that a crash never leaves half of a step."""
        return json.dumps(
            {
                "cursor": self.cursor,
                "waiting": self.waiting,
                "monitors": self.monitors,
                "said": self.said.to_dict(),
                "changes": self.changes,
            }
        ).encode()


class ContractWatch:
    """Feeds the log to one account per bundle; methods block."""

    def __init__(
        self,
        log: EscalationLog,
        state: SharedState,
        releases: Releases,
        contracts: Mapping[str, Contract],
        now: Callable[[], float],
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes its ports.

        Args:
            log: Where the rows are.
            state: Where the accounts and the advice are kept.
            releases: Where certificates are found.
            contracts: What is promised, by task.
            now: The time, Unix seconds.
            rest: Called every few rows: who shares the interpreter with an event loop sleeps here.
        """
        self._log = log
        self._rest = rest
        self._state = state
        self._releases = releases
        self._contracts = contracts
        self._now = now
        self._progress: _Progress | None = None
        self._accounts: dict[str, _Watched] = {}
        self._unknown: dict[str, float] = {}

    def forget(self) -> None:
        """Drops what is in memory: another process goes on with what is saved."""
        self._progress = None
        self._accounts.clear()

    def step(self) -> bool:
        """Takes what is new; tells whether there may be more."""
        progress = self._load()
        settled = self._revisit(progress)
        seen = 0
        for row in islice(self._log.scan(progress.cursor), _STEP_ROWS):
            self._observe(progress, row)
            progress.cursor = row.sequence
            seen += 1
            if seen % _REST_ROWS == 0:
                self._rest()
        if seen or settled:
            self._save(progress)
        return seen == _STEP_ROWS

    def _observe(self, progress: _Progress, row: LoggedRow, *, given_up: bool = False) -> RowUse:
        account = self._account(row)
        if account is None:
            return RowUse.OTHER_BUNDLE
        earlier = progress.said.recall(row)
        use = account.monitor.observe(row, earlier=earlier, given_up=given_up)
        for name, sequence in account.monitor.changes.items():
            if sequence == row.sequence:
                progress.changes.setdefault(account.task, {})[name] = sequence
        if use is RowUse.WAITING and len(progress.waiting) < _MAX_WAITING:
            progress.waiting[str(row.sequence)] = (row.record.event_id, row.record.node)
        return use

    def _revisit(self, progress: _Progress) -> bool:
        """Looks again at rows that waited for their label; tells whether any was settled."""
        settled = []
        for sequence, (event_id, node) in islice(progress.waiting.items(), _STEP_ROWS):
            row = self._log.find(event_id, node)
            if row is None:
                settled.append(sequence)
                continue
            late = self._now() - row.logged_unix_s > _GIVE_UP_S
            if self._observe(progress, row, given_up=late) is not RowUse.WAITING:
                settled.append(sequence)
        for sequence in settled:
            del progress.waiting[sequence]
        return bool(settled)

    def _account(self, row: LoggedRow) -> _Watched | None:
        """The account of the row's bundle; None for one that was never published for its task."""
        bundle, now = row.record.bundle, self._now()
        if self._unknown.get(bundle, 0.0) > now:
            return None
        if bundle not in self._accounts:
            opened = self._open_account(bundle, row.record.task)
            if opened is None:
                if len(self._unknown) >= _MAX_UNKNOWN:
                    self._unknown.clear()
                self._unknown[bundle] = now + _LOOK_AGAIN_S
                return None
            self._accounts[bundle] = opened
            if len(self._accounts) > _MAX_BUNDLES:
                oldest = next(iter(self._accounts))
                del self._accounts[oldest]
                self._state.delete(f"{_ADVICE}{oldest}")
        return self._accounts[bundle]

    def _open_account(self, bundle: str, task: str) -> _Watched | None:
        contract = self._contracts.get(task)
        published = read_published(self._releases, bundle, task)
        if contract is None or published is None:
            return None
        certificate = published.certificate
        watch = Watch.over(bundle, certificate, published.labels)
        saved = self._load().monitors.get(bundle)
        if saved is None:
            return _Watched(task, certificate, LiveMonitor(watch))
        try:
            return _Watched(task, certificate, LiveMonitor.from_dict(saved, watch))
        except DataError:
            return _Watched(task, certificate, LiveMonitor(watch))

    def _load(self) -> _Progress:
        if self._progress is None:
            saved = self._state.get(_STATE)
            self._progress = _Progress.from_json(saved) if saved else _Progress()
        return self._progress

    def _save(self, progress: _Progress) -> None:
        progress.monitors = {b: a.monitor.to_dict() for b, a in self._accounts.items()}
        self._state.put(_STATE, progress.to_json())
        for bundle, account in self._accounts.items():
            standing = msgspec.json.encode(_standing(bundle, account))
            self._state.put(f"{_ADVICE}{bundle}", standing)
        for task, changes in progress.changes.items():
            self._state.put(f"{_CHANGE}{task}", json.dumps(changes).encode())


def last_changes(state: SharedState, task: str) -> dict[str, int]:
    """Sequences of the log at which traffic was last found to be new, by slice, "" for all of it.

    Rows up to there say nothing about today's traffic, so a night must not certify on them.
    """
    saved = state.get(f"{_CHANGE}{task}")
    found: dict[str, int] = json.loads(saved) if saved else {}
    return found


@dataclass(frozen=True, slots=True)
class Published:
    """What of a published bundle is watched: its certificate, and the labels it can say."""

    certificate: Certificate
    labels: tuple[str, ...]


def read_published(releases: Releases, bundle: str, task: str) -> Published | None:
    """A published bundle of that task; None if there is no such bundle."""
    try:
        manifest = decode_manifest(_blob(releases, bundle))
        if manifest.task != task or CERTIFICATE not in manifest.files:
            return None
        plain = json.loads(_blob(releases, manifest.files[CERTIFICATE].sha256))
        certificate = msgspec.convert(_with_infinity(plain), Certificate)
        return Published(certificate, tuple(manifest.labels))
    except (BundleError, ValueError, AttributeError, TypeError):
        return None


def _with_infinity(plain: dict[str, Any]) -> dict[str, Any]:
    """A bundle's JSON writes infinity as null."""
    for entry in (plain, *plain.get("slices", ())):
        for key in ("threshold", "expires_unix_s"):
            if key in entry and entry[key] is None:
                entry[key] = math.inf
    return plain


def _blob(releases: Releases, sha256: str) -> bytes:
    file, _ = releases.open_blob(sha256)
    with file:
        return file.read()


def _standing(bundle: str, account: _Watched) -> BundleStanding:
    monitor, certificate = account.monitor, account.certificate
    advice = monitor.advice()
    return BundleStanding(
        bundle=bundle,
        task=account.task,
        standing=monitor.standing.value,
        certificate_revoked=advice.certificate_revoked,
        threshold_floor=_finite(advice.threshold_floor),
        audit_rate=advice.audit_rate,
        night=advice.night,
        drift=monitor.level,
        rows=monitor.counts[RowUse.COUNTED.value],
        threshold=_finite(certificate.threshold),
        risk_upper_bound=certificate.risk_upper_bound,
        cause=monitor.cause.value if monitor.alarmed else "",
        slices=tuple(_slice_standing(n, a) for n, a in monitor.slices.items()),
    )


def _slice_standing(name: str, account: Account) -> SliceStanding:
    return SliceStanding(
        name=name,
        standing=account.standing.value,
        certificate_revoked=account.alarmed,
        threshold_floor=_finite(account.floor),
        drift=account.drift.level,
        rows=account.rows,
        threshold=account.promise.threshold,
    )


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
