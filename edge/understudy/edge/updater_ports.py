"""What an updater needs of others: the cloud, the client that answers, and how to behave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from understudy.edge.bundle import Bundle
from understudy.edge.trust import ArtifactSource
from understudy.edge.updater_probation import ProbationCounters, ProbationRules
from understudy.edge.updater_selftest import SelfTestRules
from understudy.edge.updater_window import UpdateWindow
from understudy.types.release import Directive, NodeStatus


class Link(ArtifactSource, Protocol):
    """The cloud, as an updater sees it."""

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        """Reports a node's state and hears what to do.

        Raises:
            LinkError: If the cloud cannot be asked.
        """
        ...


class RunningStudent(Protocol):
    """The client that answers, as an updater sees it; called from the updater's thread."""

    def status(self) -> NodeStatus:
        """Counters since the last check-in, with the id of the bundle really loaded.

        Reading changes nothing; `obey` says that a check-in has arrived.
        """
        ...

    def swap(self, bundle: Bundle) -> None:
        """Builds, warms up and installs a student; calls in flight end on the old one.

        Raises:
            BundleError: If it cannot be loaded; the old student stays.
        """
        ...

    def probation(self) -> ProbationCounters:
        """What the student in use has done since it was swapped in."""
        ...

    def obey(self, directive: Directive) -> None:
        """Takes over what the cloud says beside the bundle: threshold floor, audit rate, shadow."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """How a node updates.

    Attributes:
        channel: Channel to follow.
        check_in_s: Time between check-ins when the cloud does not say; a fifth either way at
            random, so that a fleet does not come at once.
        timeout_s: Deadline of one call, and of one stretch of a download.
        bytes_per_s: Bandwidth of downloads; 0 is no limit.
        window: Local time in which downloads may run.
        use_deltas: Ask for deltas first.
        pause_s: Pause after a failure; doubles with each in a row.
        longest_pause_s: No pause is longer.
        probation: When to commit, and when to go back.
        selftest: What a new student must pass before it may answer.
    """

    channel: str = "stable"
    check_in_s: float = 900.0
    timeout_s: float = 60.0
    bytes_per_s: float = 0.0
    window: UpdateWindow = field(default_factory=UpdateWindow)
    use_deltas: bool = True
    pause_s: float = 5.0
    longest_pause_s: float = 6 * 3600.0
    probation: ProbationRules = field(default_factory=ProbationRules)
    selftest: SelfTestRules = field(default_factory=SelfTestRules)
