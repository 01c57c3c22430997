"""Who may have a new release yet: `rollout_rules` judges, `rollout_book` remembers.

A release reaches a growing share of the nodes of its channel, drawn by a hash. Any number of
gateway processes may decide at once: what they decide lies where all of them read it.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Protocol

from understudy.cloud.releases import Release, ReleaseKind
from understudy.cloud.rollout_book import (
    Counts,
    NodeWord,
    Outcome,
    Phase,
    RolloutBook,
    RolloutState,
    plain,
)
from understudy.cloud.rollout_rules import (
    RolloutPlan,
    StageVerdict,
    Step,
    StopLevels,
    judge_stage,
    place,
    share_of,
    stop_levels,
)
from understudy.types.errors import BundleError
from understudy.types.release import Directive, NodeStatus, UpdateState

_JUDGED_EVERY_S = 1.0
_REMEMBERED = 3
_SETTLED = {UpdateState.IDLE, UpdateState.CHECK, UpdateState.COMMIT, UpdateState.DOWNLOAD}


class Catalogue(Protocol):
    """What the publisher has signed."""

    def releases(self) -> list[Release]:
        """Every release that may be installed, oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One rollout as people and metrics see it.

    Attributes:
        state: Where it stands.
        counts: What became of the release so far.
        share: Share of the channel's nodes that may have it, in (0, 1].
        verdict: What the stop rule says just now.
        levels: How near it is to stopping.
    """

    state: RolloutState
    counts: Counts
    share: float
    verdict: StageVerdict
    levels: StopLevels


class Rollout:
    """Decides who may have what, and remembers it; thread-safe, and beside other processes."""

    def __init__(
        self, book: RolloutBook, catalogue: Catalogue, plan: RolloutPlan | None = None
    ) -> None:
        """Takes over the book; closes it.

        Args:
            book: What is remembered, shared with every other gateway process.
            catalogue: What the publisher has signed.
            plan: How fast releases spread.
        """
        self._book = book
        self._catalogue = catalogue
        self._plan = plan or RolloutPlan()
        self._lock = threading.Lock()
        self._judged: dict[int, float] = {}

    def close(self) -> None:
        """Closes the book; safe to repeat."""
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
            urgent = self._note_outcome(rollout, node, status, now)
            if urgent or self._is_due(rollout, now):
                rollout = self._judge(rollout, now)
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
            return self._book.change(
                rollout.sequence, lambda r: replace(r, phase=Phase.PAUSED, reason=reason)
            )

    def resume(self, task: str, channel: str, now: float) -> RolloutState:
        """Goes on where it was stopped; the evidence so far no longer counts against it.

        Raises:
            BundleError: If the channel has no release.
        """
        with self._lock:
            rollout = self._rollout(task, channel, now)
            return self._book.change(
                rollout.sequence,
                lambda r: replace(
                    r, phase=Phase.RUNNING, reason="", stage_unix_s=now, evidence_unix_s=now
                ),
            )

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

    def rollouts(self, now: float) -> list[RolloutView]:
        """Every rollout with what became of it, newest first; for people and metrics."""
        with self._lock:
            return [self._view(rollout, now) for rollout in self._book.rollouts()]

    def nodes(self) -> list[dict[str, str | float]]:
        """Every node ever seen, with its last word."""
        return [plain(word) for word in self._book.nodes()]

    def nodes_by_state(self, now: float) -> Counter[tuple[str, str, str]]:
        """How many nodes stand where: by task, channel and updater's state, or `silent`."""
        since = now - self._plan.silent_after_s
        return Counter(
            (word.task, word.channel, word.state if word.seen_unix_s >= since else "silent")
            for word in self._book.nodes()
        )

    def _view(self, rollout: RolloutState, now: float) -> RolloutView:
        counts = self._counts(rollout, now)
        return RolloutView(
            state=rollout,
            counts=counts,
            share=share_of(self._plan, rollout),
            verdict=self._verdict(rollout, counts, now),
            levels=stop_levels(self._plan, counts),
        )

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
        self._forget_retired(releases)
        return self._book.begin(rollout)

    def _forget_retired(self, releases: list[Release]) -> None:
        """Closes the pages of releases that nobody can install any more, but for the last few."""
        listed = {release.sequence for release in releases}
        channel = (releases[-1].task, releases[-1].channel)
        mine = [r for r in self._book.rollouts() if (r.task, r.channel) == channel]
        for old in [r for r in mine if r.sequence not in listed][_REMEMBERED:]:
            self._book.forget(old)

    def _note_outcome(
        self, rollout: RolloutState, node: str, status: NodeStatus, now: float
    ) -> bool:
        """Remembers what became of the release on a node; True if that speaks against it."""
        if status.failed_bundle == rollout.bundle:
            return self._book.decide(rollout.sequence, node, Outcome.FAILED, now)
        if status.bundle != rollout.bundle:
            return False
        # Who has it already, from the factory or another channel, speaks for it too.
        self._book.offer(rollout.sequence, node, now)
        if status.state in _SETTLED:
            self._book.decide(rollout.sequence, node, Outcome.COMMITTED, now)
        wins, losses = status.shadow_wins, status.shadow_losses
        return self._book.note_pairs(rollout.sequence, node, wins, losses) and losses > wins

    def _is_due(self, rollout: RolloutState, now: float) -> bool:
        """True once a second: reading what became of it costs with the size of the fleet."""
        last = self._judged.get(rollout.sequence)
        return last is None or abs(now - last) >= _JUDGED_EVERY_S

    def _judge(self, rollout: RolloutState, now: float) -> RolloutState:
        """Takes every step that the evidence asks for."""
        self._judged[rollout.sequence] = now
        while rollout.phase is Phase.RUNNING:
            after = self._book.change(rollout.sequence, lambda r: self._next(r, now))
            if after == rollout:
                break
            rollout = after
        return rollout

    def _next(self, rollout: RolloutState, now: float) -> RolloutState:
        """Where a rollout stands after its evidence was looked at."""
        if rollout.phase is not Phase.RUNNING:
            return rollout
        verdict = self._verdict(rollout, self._counts(rollout, now), now)
        return rollout if verdict.step is Step.STAY else self._after(rollout, verdict, now)

    def _verdict(self, rollout: RolloutState, counts: Counts, now: float) -> StageVerdict:
        age_s = now - rollout.stage_unix_s
        cohort = self._cohort(rollout, now) if age_s >= self._plan.stage_s else 0
        return judge_stage(self._plan, counts, age_s, cohort)

    def _after(self, rollout: RolloutState, verdict: StageVerdict, now: float) -> RolloutState:
        if verdict.step is Step.HALT:
            return replace(rollout, phase=Phase.HALTED, reason=verdict.reason)
        if rollout.stage + 1 < len(self._plan.stages):
            return replace(rollout, stage=rollout.stage + 1, stage_unix_s=now)
        return replace(rollout, phase=Phase.DONE, reason=verdict.reason)

    def _cohort(self, rollout: RolloutState, now: float) -> int:
        """How many nodes of the present stage spoke lately and may still speak for it."""
        since = max(now - self._plan.silent_after_s, 0.0)
        share = share_of(self._plan, rollout)
        pinned = self._book.pinned_nodes(rollout.task)

        def speaks(word: NodeWord) -> bool:
            heard = word.channel == rollout.channel and word.seen_unix_s >= since
            return heard and word.node not in pinned and place(rollout, word.node) < share

        return sum(map(speaks, self._book.nodes(rollout.task)))

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
            offered = self._book.offered(rollout.sequence, node)
            return offered is not None and offered.outcome is Outcome.COMMITTED
        return rollout.phase is Phase.DONE or place(rollout, node) < share_of(self._plan, rollout)

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
