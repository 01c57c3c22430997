"""A node that updates: the real updater, a real student, counters that a test may set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from simulators.bundles import TASK
from understudy.edge.bundle import Bundle
from understudy.edge.student import Student
from understudy.edge.transport import CloudLink
from understudy.edge.updater import (
    ProbationCounters,
    ProbationRules,
    SelfTestRules,
    Updater,
    UpdateSettings,
    boot,
)
from understudy.types.release import Directive, NodeStatus, UpdateState

QUICK = UpdateSettings(
    probation=ProbationRules(min_requests=1, min_s=0.0),
    selftest=SelfTestRules(in_child=False, latency_allowance_ms=10_000.0),
    pause_s=1.0,
)
"""Commits after one request, tests itself in this process, never too slow."""


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class RunningNode:
    """The client, as an updater sees it; answers with the real student."""

    student: Student | None = None
    loaded: str = ""
    counters: ProbationCounters = field(default_factory=lambda: ProbationCounters(requests=10))
    swaps: list[str] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)

    def status(self) -> NodeStatus:
        return NodeStatus(task=TASK, bundle=self.loaded, client_version="1.2.3")

    def swap(self, bundle: Bundle) -> None:
        self.student = Student.load(bundle)
        self.loaded = bundle.id
        self.swaps.append(bundle.id)

    def probation(self) -> ProbationCounters:
        return self.counters

    def obey(self, directive: Directive) -> None:
        self.directives.append(directive)

    def answer(self) -> str:
        """What the student says to a text about cards."""
        assert self.student is not None
        return self.student.labels[int(self.student.run(["card swallowed"]).logits[0].argmax())]


class Node:
    """One process of a node: boots, loads, updates."""

    def __init__(
        self,
        home: Path,
        root: bytes,
        address: str,
        settings: UpdateSettings = QUICK,
        clock: Clock | None = None,
    ) -> None:
        self.home = home
        self.clock = clock or Clock()
        self.link = CloudLink(address)
        self.client = RunningNode()
        installed = boot(home, self.clock)
        if installed is not None:
            self.client.swap(installed)
        self.updater = Updater(
            home, root, self.link, self.client, settings, clock=self.clock, chance=lambda: 0.5
        )

    def update(self) -> UpdateState:
        """Everything that can be done now, the check-in included."""
        self.updater.check_now()
        return self.updater.run_until_idle()

    def until(self, state: UpdateState, steps: int = 50) -> UpdateState:
        """Steps until a state is reached, passing over pauses."""
        for _ in range(steps):
            reached = self.updater.step()
            if reached is state:
                return reached
            self.clock.now += self.updater.due_in_s()
        raise AssertionError(f"never reached {state}, stands at {self.updater.record}")

    def close(self) -> None:
        self.updater.close()
        self.link.close()
