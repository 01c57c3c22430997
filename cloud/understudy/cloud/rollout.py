"""Who may have a new release yet. The rules are pure; `rollout_book` remembers.

A release reaches a growing share of the nodes of its channel, drawn by a hash. What becomes of it
there is evidence in a test that may be looked at after every node: the stop rule is a betting
process whose wealth exceeds 1/alpha with probability alpha at most, ever, while the release is no
worse than tolerated.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from understudy.cloud.releases import Release, ReleaseKind
from understudy.cloud.rollout_book import Counts, Outcome, Phase, RolloutBook, RolloutState
from understudy.types.errors import BundleError, InvalidValueError
from understudy.types.release import Directive, NodeStatus, UpdateState

_SETTLED = {UpdateState.IDLE, UpdateState.CHECK, UpdateState.COMMIT, UpdateState.DOWNLOAD}


class Catalogue(Protocol):
    """What the publisher has signed."""

    def releases(self) -> list[Release]:
        """Every release that may be installed, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """How fast a release spreads, and what stops it.

    Attributes:
        stages: Share of a channel's nodes that may have it, stage by stage; ends with 1.
        immediate_channels: Channels whose nodes take every release at once.
        stage_s: Shortest time in one stage, seconds.
        decided_share: Share of a stage's nodes that must have committed or failed to go on.
        tolerated_failures: Share of nodes that may fail while the release counts as good.
        alpha: Probability of stopping a good release, over the whole rollout.
        silent_after_s: A node not heard of for so long counts as silent.
        tolerated_silence: Share of a stage's nodes that may be silent.
        shadow_rate: Share of requests on which first-stage nodes run the champion too.
        check_in_s: Seconds between check-ins of nodes that have nothing to do.
        busy_check_in_s: Seconds until a node that was offered something reports.
    """

    stages: tuple[float, ...] = (0.05, 0.25, 1.0)
    immediate_channels: tuple[str, ...] = ("canary",)
    stage_s: float = 3600.0
    decided_share: float = 0.8
    tolerated_failures: float = 0.02
    alpha: float = 0.05
    silent_after_s: float = 3 * 3600.0
    tolerated_silence: float = 0.3
    shadow_rate: float = 0.1
    check_in_s: float = 900.0
    busy_check_in_s: float = 60.0

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not rising or self.stages[-1] != 1.0 or self.stages[0] <= 0.0:
            raise InvalidValueError("rollout stages must rise from above 0 to exactly 1")


class Step(StrEnum):
    """What the evidence says about a rollout."""

    STAY = "stay"
    ADVANCE = "advance"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """A step and its reason, one sentence."""

    step: Step
    reason: str = ""


def judge_stage(plan: RolloutPlan, counts: Counts, age_s: float, cohort: int) -> StageVerdict:
    """Judges a stage; may be asked after every report.

    Args:
        plan: The rules.
        counts: What became of the release so far.
        age_s: Seconds since the stage began.
        cohort: Nodes of the stage that were heard of lately, asked already or not.
    """
    counted = counts.counted_failed + counts.counted_committed
    if evidence(counts.counted_failed, counted, plan.tolerated_failures) >= 1 / plan.alpha:
        return StageVerdict(Step.HALT, f"{counts.counted_failed} of {counted} nodes took it back")
    pairs = counts.shadow_losses + counts.shadow_wins
    if evidence(counts.shadow_losses, pairs, 0.5) >= 1 / plan.alpha:
        return StageVerdict(
            Step.HALT, f"the champion was right in {counts.shadow_losses} of {pairs} disputed rows"
        )
    if counts.silent >= 3 and counts.silent > plan.tolerated_silence * counts.offered:
        return StageVerdict(Step.HALT, f"{counts.silent} of {counts.offered} nodes fell silent")
    tried = counts.failed + counts.committed
    if age_s >= plan.stage_s and tried >= plan.decided_share * cohort:
        return StageVerdict(Step.ADVANCE, f"{counts.committed} of {counts.offered} nodes committed")
    return StageVerdict(Step.STAY)


def evidence(bad: int, total: int, tolerated: float) -> float:
    """Wealth won by betting that more than a tolerated share is bad.

    The average, over every worse share, of the likelihood ratio to the tolerated one. Started at
    1, it is a supermartingale while the true share is tolerable, whatever made one stop to look.

    Args:
        bad: Bad outcomes.
        total: All outcomes.
        tolerated: The tolerated share, in (0, 1).

    Returns:
        The wealth, positive; capped at 1e300.
    """
    from scipy.special import betaincc, betaln

    good = total - bad
    tail = float(betaincc(bad + 1, good + 1, tolerated))
    if tail <= 0.0:
        return 0.0
    average = float(betaln(bad + 1, good + 1)) + math.log(tail) - math.log1p(-tolerated)
    null = bad * math.log(tolerated) + good * math.log1p(-tolerated)
    return math.exp(min(690.0, average - null))


def place(rollout: RolloutState, node: str) -> float:
    """A node's place in the queue for one release, in [0, 1); another release, another place."""
    key = f"{rollout.task}/{rollout.channel}/{rollout.sequence}/{node}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64


class Rollout:
    """Decides who may have what, and remembers it; thread-safe."""

    def __init__(
        self, path: Path | str, catalogue: Catalogue, plan: RolloutPlan | None = None
    ) -> None:
        """Opens the book.

        Args:
            path: The SQLite file, made when missing.
            catalogue: What the publisher has signed.
            plan: How fast releases spread.
        """
        self._book = RolloutBook(path)
        self._catalogue = catalogue
        self._plan = plan or RolloutPlan()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the book."""
        self._book.close()

    def check_in(self, node: str, status: NodeStatus, now: float) -> Directive:
        """Notes how a node is, and says what it should run.

        Args:
            node: The node, from its certificate.
            status: What it says of itself.
            now: Seconds since 1970.
        """
        with self._lock:
            self._book.see(node, status, now)
            releases = self._releases(status.task, status.channel)
            if not releases:
                return Directive(next_check_in_s=self._plan.check_in_s)
            rollout = self._current(releases, now)
            self._note_outcome(rollout, node, status, now)
            rollout = self._advance(rollout, now)
            return self._directive(rollout, releases, node, status, now)

    def pause(
        self, task: str, channel: str, now: float, reason: str = "paused by hand"
    ) -> RolloutState:
        """Stops offering the channel's newest release; who has it keeps it.

        Raises:
            BundleError: If the channel has no release.
        """
        with self._lock:
            rollout = self._rollout(task, channel, now)
            return self._book.write(replace(rollout, phase=Phase.PAUSED, reason=reason))

    def resume(self, task: str, channel: str, now: float) -> RolloutState:
        """Goes on where it was stopped; the evidence so far no longer counts against it.

        Raises:
            BundleError: If the channel has no release.
        """
        with self._lock:
            rollout = self._rollout(task, channel, now)
            fresh = replace(
                rollout, phase=Phase.RUNNING, reason="", stage_unix_s=now, evidence_unix_s=now
            )
            return self._book.write(fresh)

    def pin(self, node: str, task: str, bundle: str = "") -> None:
        """Keeps a node at a bundle that is offered to its channel, or where it is when empty.

        A node never goes below the release it has had; to take one back, publish a rollback to a
        channel of its own.
        """
        with self._lock:
            self._book.pin(node, task, bundle)

    def unpin(self, node: str, task: str) -> None:
        """Lets a node follow its channel again."""
        with self._lock:
            self._book.unpin(node, task)

    def rollouts(self, now: float) -> list[tuple[RolloutState, Counts]]:
        """Every rollout with what became of it, newest first; for people and metrics."""
        with self._lock:
            return [(rollout, self._counts(rollout, now)) for rollout in self._book.rollouts()]

    def nodes(self) -> list[dict[str, str | float]]:
        """Every node ever seen, with its last word."""
        with self._lock:
            return self._book.nodes()

    def _releases(self, task: str, channel: str) -> list[Release]:
        try:
            every = self._catalogue.releases()
        except BundleError:
            return []
        return [r for r in every if (r.task, r.channel) == (task, channel)]

    def _rollout(self, task: str, channel: str, now: float) -> RolloutState:
        releases = self._releases(task, channel)
        if not releases:
            raise BundleError(f"the channel '{channel}' of '{task}' has no release")
        return self._current(releases, now)

    def _current(self, releases: list[Release], now: float) -> RolloutState:
        """The rollout of the newest release, begun when it is seen for the first time."""
        newest = releases[-1]
        known = self._book.rollout(newest.sequence)
        if known is not None:
            return known
        # A first release has nobody to compare with, and a rollback must not wait.
        urgent = len(releases) == 1 or newest.offer.kind is ReleaseKind.ROLLBACK
        immediate = urgent or newest.channel in self._plan.immediate_channels
        rollout = RolloutState(
            sequence=newest.sequence,
            task=newest.task,
            channel=newest.channel,
            bundle=newest.bundle,
            target=newest.target,
            phase=Phase.RUNNING,
            stage=len(self._plan.stages) - 1 if immediate else 0,
            stage_unix_s=now,
            evidence_unix_s=0.0,
        )
        return self._book.write(rollout)

    def _note_outcome(
        self, rollout: RolloutState, node: str, status: NodeStatus, now: float
    ) -> None:
        if status.failed_bundle == rollout.bundle:
            self._book.decide(rollout.sequence, node, Outcome.FAILED, now)
        elif status.bundle == rollout.bundle:
            # Who has it already, from the factory or another channel, speaks for it too.
            self._book.offer(rollout.sequence, node, now)
            self._book.note_pairs(rollout.sequence, node, status.shadow_wins, status.shadow_losses)
            if status.state in _SETTLED:
                self._book.decide(rollout.sequence, node, Outcome.COMMITTED, now)

    def _advance(self, rollout: RolloutState, now: float) -> RolloutState:
        while rollout.phase is Phase.RUNNING:
            counts, age_s = self._counts(rollout, now), now - rollout.stage_unix_s
            cohort = self._cohort(rollout, now) if age_s >= self._plan.stage_s else 0
            verdict = judge_stage(self._plan, counts, age_s, cohort)
            if verdict.step is Step.STAY:
                return rollout
            rollout = self._book.write(self._after(rollout, verdict, now))
        return rollout

    def _after(self, rollout: RolloutState, verdict: StageVerdict, now: float) -> RolloutState:
        if verdict.step is Step.HALT:
            return replace(rollout, phase=Phase.HALTED, reason=verdict.reason)
        if rollout.stage + 1 < len(self._plan.stages):
            return replace(rollout, stage=rollout.stage + 1, stage_unix_s=now)
        return replace(rollout, phase=Phase.DONE, reason=verdict.reason)

    def _cohort(self, rollout: RolloutState, now: float) -> int:
        """How many nodes of the present stage spoke lately and may still speak for it."""
        since = max(now - self._plan.silent_after_s, 0.0)
        nodes = self._book.heard_of(rollout.task, rollout.channel, since)
        share = self._plan.stages[rollout.stage]
        pinned = self._book.pinned_nodes(rollout.task)
        return sum(place(rollout, node) < share for node in nodes if node not in pinned)

    def _counts(self, rollout: RolloutState, now: float) -> Counts:
        return self._book.counts(rollout, now - self._plan.silent_after_s)

    def _directive(
        self,
        rollout: RolloutState,
        releases: list[Release],
        node: str,
        status: NodeStatus,
        now: float,
    ) -> Directive:
        pinned = self._book.pinned(node, status.task)
        if pinned is not None:
            return self._towards(_find(releases, pinned), status)
        if not self._may_have(rollout, node):
            return self._towards(self._before(rollout, releases, node), status)
        if status.bundle != rollout.bundle:
            self._book.offer(rollout.sequence, node, now)
        first = rollout.phase is Phase.RUNNING and rollout.stage == 0
        return Directive(
            bundle=rollout.bundle,
            target=rollout.target,
            shadow_rate=self._plan.shadow_rate if first else 0.0,
            next_check_in_s=self._pause(status, rollout.bundle),
        )

    def _may_have(self, rollout: RolloutState, node: str) -> bool:
        if rollout.phase in {Phase.PAUSED, Phase.HALTED}:
            return self._book.outcome(rollout.sequence, node) is Outcome.COMMITTED
        share = self._plan.stages[min(rollout.stage, len(self._plan.stages) - 1)]
        return rollout.phase is Phase.DONE or place(rollout, node) < share

    def _before(self, rollout: RolloutState, releases: list[Release], node: str) -> Release | None:
        """What a node runs that may not have the newest: the last earlier one it may have."""
        for release in reversed(releases):
            known = self._book.rollout(release.sequence)
            if release.sequence < rollout.sequence and known and self._may_have(known, node):
                return release
        return None

    def _towards(self, release: Release | None, status: NodeStatus) -> Directive:
        if release is None:
            return Directive(next_check_in_s=self._plan.check_in_s)
        pause = self._pause(status, release.bundle)
        return Directive(bundle=release.bundle, target=release.target, next_check_in_s=pause)

    def _pause(self, status: NodeStatus, bundle: str) -> float:
        settled = status.failed_bundle == bundle or (
            status.bundle == bundle and status.state in _SETTLED
        )
        return self._plan.check_in_s if settled else self._plan.busy_check_in_s


def _find(releases: list[Release], bundle: str) -> Release | None:
    return next((r for r in reversed(releases) if r.bundle == bundle), None)
