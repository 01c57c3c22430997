"""A client as a node of a fleet: checks in, obeys, updates, renews its certificate.

Runs in the thread `understudy.updater`. With a state folder and a trusted root the updater does
the checking in; without, a node still says how it is and hears what to do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from understudy.edge.credentials import fingerprint, renew_if_due
from understudy.edge.events import Event, EventKind
from understudy.edge.telemetry import Fault, Snapshot
from understudy.edge.updater_probation import ProbationCounters
from understudy.edge.updater_state import settle
from understudy.types.release import Directive, NodeStatus

if TYPE_CHECKING:
    from understudy.edge.bundle import Bundle
    from understudy.edge.runtime import Runtime

CHECK_IN_TIMEOUT_S = 15.0
CREDENTIALS_S = 60.0
_LOST = (
    Fault.QUEUE, Fault.SPOOL_FULL, Fault.SPOOL_OLD, Fault.SPOOL_DAMAGED, Fault.REFUSED,
)  # fmt: skip


class Updates(Protocol):
    """What brings new students: the updater, or a plain check-in."""

    def step(self) -> object:
        """Does what is due; returns where it stands."""
        ...

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do."""
        ...

    def check_now(self) -> None:
        """Makes the next step due at once."""
        ...

    def farewell(self, timeout_s: float) -> None:
        """The last check-in, if there is something to tell and the one before came through.

        Raises:
            UnderstudyError: If the cloud does not hear it in time.
        """
        ...

    def close(self) -> None:
        """Ends what is in flight."""
        ...


class FleetLink(Protocol):
    """The cloud, as far as a check-in needs it."""

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        """Reports a node's state."""
        ...


class NodeView:
    """The running client as an updater sees it (`updater_ports.RunningStudent`)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._told = Snapshot()
        self._telling = Snapshot()

    def status(self) -> NodeStatus:
        """Counters since the last check-in that arrived."""
        runtime, now, told = self._runtime, self._runtime.telemetry.snapshot(), self._told
        tally = runtime.loaded.record.tally()
        self._telling = now
        return NodeStatus(
            task=runtime.config.task or runtime.loaded.bundle.manifest.task,
            bundle=runtime.loaded.bundle.id,
            channel=runtime.config.updater.channel,
            client_version=_version(),
            requests=now.requests - told.requests,
            kept=now.kept - told.kept,
            escalated=now.escalated - told.escalated,
            degraded=now.degraded - told.degraded,
            audits=now.audits - told.audits,
            spool_rows=runtime.uploader.waiting(),
            dropped_rows=_lost(now) - _lost(told),
            shadow_rows=tally.shadow_rows,
            shadow_wins=tally.shadow_wins,
            shadow_losses=tally.shadow_losses,
        )

    def swap(self, bundle: Bundle) -> None:
        """Lets another student answer.

        Raises:
            BundleError: If it cannot be loaded; the present one stays.
        """
        self._runtime.swap(bundle)

    def probation(self) -> ProbationCounters:
        """What the student in use has done since it was loaded."""
        tally = self._runtime.loaded.record.tally()
        return ProbationCounters(
            requests=tally.requests,
            errors=tally.errors,
            invalid=tally.invalid,
            escalated=tally.escalated,
            latency_p95_ms=tally.latency.quantile(0.95),
            compared=tally.compared,
            disagreed=tally.disagreed,
            shadow_rows=tally.shadow_rows,
            shadow_wins=tally.shadow_wins,
            shadow_losses=tally.shadow_losses,
        )

    def obey(self, directive: Directive) -> None:
        """Takes over the cloud's orders; that they came proves the credentials."""
        runtime = self._runtime
        self._told = self._telling
        runtime.engine.circuit.credentials_changed()
        runtime.shadow_rate = directive.shadow_rate
        if directive.shadow_rate <= 0:
            runtime.champion = None
        before = runtime.loaded.policy
        runtime.change(lambda loaded: loaded.directed(directive))
        runtime.orders.keep(runtime.loaded.bundle.id, directive)
        if runtime.loaded.policy != before:
            event = Event(EventKind.DIRECTED, bundle=runtime.loaded.bundle.id)
            runtime.events.emit(event)


class CheckIns:
    """Check-ins without updates, for a node that keeps no state."""

    def __init__(
        self, view: NodeView, link: FleetLink, pause_s: float, clock: Callable[[], float]
    ) -> None:
        self._view, self._link, self._pause_s, self._clock = view, link, pause_s, clock
        self._due = 0.0
        self._answered = True  # until a check-in fails

    def step(self) -> str:
        """Checks in when it is time.

        Raises:
            UnderstudyError: If the cloud cannot be asked; the next time is set all the same.
        """
        if self.due_in_s() > 0:
            return "idle"
        self._due = self._clock() + self._pause_s
        directive = self._check_in(CHECK_IN_TIMEOUT_S)
        if directive.next_check_in_s > 0:
            spread = random.uniform(0.8, 1.2)  # noqa: S311 - so that a fleet does not come at once
            self._due = self._clock() + directive.next_check_in_s * spread
        return "idle"

    def due_in_s(self) -> float:
        """Seconds until the next check-in."""
        return max(0.0, self._due - self._clock())

    def check_now(self) -> None:
        """Makes the next step due at once."""
        self._due = 0.0

    def farewell(self, timeout_s: float) -> None:
        """The last check-in; raises `UnderstudyError` if the cloud does not hear it in time."""
        if self._answered and self._view.status().requests:
            self._check_in(timeout_s)

    def close(self) -> None:
        """Nothing is ever in flight here for long."""

    def _check_in(self, timeout_s: float) -> Directive:
        self._answered = False
        directive = self._link.check_in(self._view.status(), timeout_s)
        self._answered = True
        self._view.obey(directive)
        return directive


class Node:
    """Updates, and the credentials they need."""

    def __init__(self, runtime: Runtime, updates: Updates) -> None:
        self._runtime, self._updates = runtime, updates
        self._tls = runtime.config.gateway.tls
        self._seen = fingerprint(self._tls) if self._tls else ()
        self._looked = float("-inf")
        self.state = "idle"

    def step(self) -> None:
        """Looks after the credentials, then does what the updater has to do.

        Raises:
            UnderstudyError: If the cloud refused or could not be asked; the next step tries again.
            OSError: If the disk refuses; likewise.
        """
        self.state = str(self._updates.step())
        self._look_after_credentials()

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do."""
        return min(self._updates.due_in_s(), CREDENTIALS_S)

    def hurry(self) -> None:
        """Checks in at once."""
        self._updates.check_now()

    def stop(self) -> None:
        """Ends a download in flight."""
        self._updates.close()

    def settle(self) -> None:
        """Says on disk that this process ends in good order; call it when no step is under way."""
        home = self._runtime.config.state_dir
        if home:
            with suppress(OSError):  # a disk that has become read-only: the start stays counted
                settle(home)

    def farewell(self, timeout_s: float) -> None:
        """Tells the cloud the last counts; a process may be too short for a second check-in.

        Nobody is asked who did not answer just before: a close must not wait for a dead link.
        """
        circuit = self._runtime.engine.circuit
        if timeout_s <= 0 or circuit.refused or not circuit.healthy:
            return
        try:
            self._updates.farewell(timeout_s)
        except Exception:  # noqa: BLE001 - whatever the cloud or the disk does, a close ends
            self._runtime.telemetry.fault(Fault.UPDATE)

    def _look_after_credentials(self) -> None:
        if self._tls is None or time.monotonic() - self._looked < CREDENTIALS_S:
            return
        self._looked = time.monotonic()
        cloud: Any = self._runtime.link.get()  # a link, or whatever cloud a product brings
        try:
            if hasattr(cloud, "renew"):
                renew_if_due(self._tls, cloud)
        finally:
            now = fingerprint(self._tls)
            if now != self._seen:
                self._seen = now
                self._runtime.reconnect()


def make_check_ins(runtime: Runtime, link: FleetLink) -> Node:
    """A node that checks in and obeys, and never updates."""
    pause_s = runtime.config.updater.check_interval_s
    return Node(runtime, CheckIns(NodeView(runtime), link, pause_s, time.monotonic))


def _lost(counted: Snapshot) -> int:
    return sum(counted.faults.get(kind, 0) for kind in _LOST)


def _version() -> str:
    from importlib import metadata  # slow to import, and only needed at a check-in

    try:
        return metadata.version("understudy")
    except metadata.PackageNotFoundError:
        return "0"
