"""What the rollout remembers: every gateway process reads and writes the same pages.

Small values in `SharedState`, so that it is shared where the log is shared: one SQLite file a
machine, or Redis. What decides, a rollout's stage and pause, is changed by compare-and-set: of two
processes that change it at once, one sees what the other did and judges again.

    rollout/<sequence>          where a rollout stands
    pin/<task>/<node>           the bundle a node is kept at
    fleet/<task>/<node>         a node's last word
    offer-<sequence>/<node>     what became of a release on a node
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import msgspec

from understudy.cloud.state import SharedState
from understudy.types.errors import BundleError
from understudy.types.release import NodeStatus


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """By hand."""
    HALTED = "halted"
    """By the stop rule."""
    DONE = "done"


class Outcome(StrEnum):
    """What became of a release on one node."""

    OPEN = ""
    COMMITTED = "committed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """One release on its way to the nodes of its channel.

    Attributes:
        sequence: The release.
        task: Its task.
        channel: Its channel.
        bundle: Its bundle.
        target: TUF target path of the bundle's manifest.
        phase: Where the rollout stands.
        stage: Position in the plan's stages.
        stage_unix_s: When the stage began.
        evidence_unix_s: Outcomes before this time no longer count; set by a resume.
        reason: Why it stands where it does.
    """

    sequence: int
    task: str
    channel: str
    bundle: str
    target: str
    phase: Phase
    stage: int
    stage_unix_s: float
    evidence_unix_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWord:
    """A node's last word.

    Attributes:
        node: Its id.
        task: The task it spoke of.
        channel: The channel it follows.
        bundle: Id of the bundle really loaded.
        state: Where its updater stands.
        failed_bundle: Id of the bundle that failed last.
        failure: Why.
        client_version: Version of its software.
        seen_unix_s: When it spoke.
    """

    node: str
    task: str
    channel: str
    bundle: str
    state: str
    failed_bundle: str
    failure: str
    client_version: str
    seen_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What became of a release on one node; the pairs are cumulative.

    Attributes:
        offered_unix_s: When the node might have it for the first time.
        outcome: What became of it.
        decided_unix_s: When that was heard.
        wins: Disputed requests in which the teacher agreed with the new student.
        losses: Disputed requests in which the teacher agreed with the champion.
    """

    offered_unix_s: float
    outcome: Outcome = Outcome.OPEN
    decided_unix_s: float = 0.0
    wins: int = 0
    losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of a release so far, in nodes; shadow counts in requests.

    Attributes:
        offered: Nodes that may have it.
        committed: Of these, run it for good.
        failed: Of these, took it back or refused it.
        silent: Of these, undecided and not heard of.
        shadow_wins: Disputed requests in which the teacher agreed with the new student.
        shadow_losses: Disputed requests in which the teacher agreed with the champion.
        counted_committed: Of the committed, those that the stop rule counts.
        counted_failed: Of the failed, those that the stop rule counts; a resume begins anew.
    """

    offered: int = 0
    committed: int = 0
    failed: int = 0
    silent: int = 0
    shadow_wins: int = 0
    shadow_losses: int = 0
    counted_committed: int = 0
    counted_failed: int = 0


class RolloutBook:
    """Rollouts and pins, offers and nodes."""

    def __init__(self, orders: SharedState, words: SharedState) -> None:
        """Takes over both; closes both.

        Args:
            orders: Where rollouts and pins go: a power cut must not undo a pause.
            words: Where goes what nodes say, and say again if it is lost.
        """
        self._orders = orders
        self._words = words

    def close(self) -> None:
        """Frees the state."""
        self._orders.close()
        self._words.close()

    # Rollouts.

    def rollout(self, sequence: int) -> RolloutState | None:
        """The rollout of a release; None before it began."""
        raw = self._orders.get(f"rollout/{sequence}")
        return None if raw is None else msgspec.json.decode(raw, type=RolloutState)

    def rollouts(self) -> list[RolloutState]:
        """Every rollout that is remembered, newest first."""
        pages = self._orders.items("rollout/").values()
        found = [msgspec.json.decode(page, type=RolloutState) for page in pages]
        return sorted(found, key=lambda rollout: -rollout.sequence)

    def begin(self, rollout: RolloutState) -> RolloutState:
        """Begins a rollout, unless another process has; returns how it stands."""
        key = f"rollout/{rollout.sequence}"
        self._orders.swap(key, None, msgspec.json.encode(rollout))
        return self.rollout(rollout.sequence) or rollout

    def change(self, sequence: int, change: Callable[[RolloutState], RolloutState]) -> RolloutState:
        """Changes a rollout as it stands now, whoever else is changing it.

        Args:
            sequence: A rollout that has begun.
            change: From the present state to the next; asked again when another was faster.

        Raises:
            BundleError: If it was forgotten meanwhile.
        """
        key = f"rollout/{sequence}"
        while True:
            raw = self._orders.get(key)
            if raw is None:
                raise BundleError(f"release {sequence} is no longer on its way")
            before = msgspec.json.decode(raw, type=RolloutState)
            after = change(before)
            if after == before or self._orders.swap(key, raw, msgspec.json.encode(after)):
                return after

    def forget(self, rollout: RolloutState) -> None:
        """Removes a rollout with all its offers."""
        for key in self._words.items(f"offer-{rollout.sequence}/"):
            self._words.delete(key)
        self._orders.delete(f"rollout/{rollout.sequence}")

    # Nodes.

    def see(self, node: str, status: NodeStatus, now: float) -> None:
        """Remembers a node's last word."""
        word = NodeWord(
            node=node,
            task=status.task,
            channel=status.channel,
            bundle=status.bundle,
            state=status.state.value,
            failed_bundle=status.failed_bundle,
            failure=status.failure,
            client_version=status.client_version,
            seen_unix_s=now,
        )
        self._words.put(f"fleet/{status.task}/{node}", msgspec.json.encode(word))

    def nodes(self, task: str = "") -> list[NodeWord]:
        """Every node's last word, of one task or of all, by name."""
        pages = self._words.items(f"fleet/{task}/" if task else "fleet/").values()
        found = [msgspec.json.decode(page, type=NodeWord) for page in pages]
        return sorted(found, key=lambda word: (word.node, word.task))

    # Offers.

    def offered(self, sequence: int, node: str) -> Offered | None:
        """What became of a release on a node; None if it was never offered there."""
        raw = self._words.get(f"offer-{sequence}/{node}")
        return None if raw is None else msgspec.json.decode(raw, type=Offered)

    def offer(self, sequence: int, node: str, now: float) -> None:
        """Remembers that a node may have a release; the first time counts."""
        fresh = msgspec.json.encode(Offered(offered_unix_s=now))
        self._words.swap(f"offer-{sequence}/{node}", None, fresh)

    def decide(self, sequence: int, node: str, outcome: Outcome, now: float) -> bool:
        """Remembers what became of an offer; a node counts once, and its latest word holds.

        Returns:
            True if that is news.
        """
        return self._amend(
            sequence,
            node,
            lambda old: (
                old if old.outcome is outcome else replace(old, outcome=outcome, decided_unix_s=now)
            ),
        )

    def note_pairs(self, sequence: int, node: str, wins: int, losses: int) -> bool:
        """Remembers a node's paired evidence; its reports are cumulative and may start again.

        Returns:
            True if that is news.
        """
        return self._amend(
            sequence,
            node,
            lambda old: replace(old, wins=max(old.wins, wins), losses=max(old.losses, losses)),
        )

    def counts(self, rollout: RolloutState, silent_unix_s: float) -> Counts:
        """What became of a release; who was last heard before `silent_unix_s` is silent."""
        pages = self._words.items(f"offer-{rollout.sequence}/")
        if not pages:
            return Counts()
        seen = {word.node: word.seen_unix_s for word in self.nodes(rollout.task)}
        found = [
            (
                msgspec.json.decode(page, type=Offered),
                seen.get(key.partition("/")[2], 0.0) < silent_unix_s,
            )
            for key, page in pages.items()
        ]
        return count(found, since_unix_s=rollout.evidence_unix_s)

    # Pins.

    def pin(self, node: str, task: str, bundle: str) -> None:
        """Keeps a node at a bundle."""
        self._orders.put(f"pin/{task}/{node}", bundle.encode())

    def unpin(self, node: str, task: str) -> None:
        """Lets a node go."""
        self._orders.delete(f"pin/{task}/{node}")

    def pinned_nodes(self, task: str) -> set[str]:
        """The nodes of a task that are kept anywhere."""
        prefix = f"pin/{task}/"
        return {key.removeprefix(prefix) for key in self._orders.items(prefix)}

    def pinned(self, node: str, task: str) -> str | None:
        """The bundle a node is kept at; empty for where it is, None when it is not kept."""
        raw = self._orders.get(f"pin/{task}/{node}")
        return None if raw is None else raw.decode()

    def _amend(self, sequence: int, node: str, amend: Callable[[Offered], Offered]) -> bool:
        key = f"offer-{sequence}/{node}"
        while (raw := self._words.get(key)) is not None:
            old = msgspec.json.decode(raw, type=Offered)
            new = amend(old)
            if new == old:
                return False
            if self._words.swap(key, raw, msgspec.json.encode(new)):
                return True
        return False


def count(offers: list[tuple[Offered, bool]], since_unix_s: float) -> Counts:
    """Counts offers, each with whether its node is silent; older outcomes stop nothing."""
    committed = [o for o, _ in offers if o.outcome is Outcome.COMMITTED]
    failed = [o for o, _ in offers if o.outcome is Outcome.FAILED]
    return Counts(
        offered=len(offers),
        committed=len(committed),
        failed=len(failed),
        silent=sum(silent and o.outcome is Outcome.OPEN for o, silent in offers),
        shadow_wins=sum(o.wins for o, _ in offers),
        shadow_losses=sum(o.losses for o, _ in offers),
        counted_committed=sum(o.decided_unix_s >= since_unix_s for o in committed),
        counted_failed=sum(o.decided_unix_s >= since_unix_s for o in failed),
    )


def plain(word: NodeWord) -> dict[str, str | float]:
    """A node's last word by name of field, for people."""
    return asdict(word)
