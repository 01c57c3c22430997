"""What a client tells its product beside the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from understudy.edge.telemetry import Fault, Telemetry
from understudy.types.answer import Answer


class EventKind(StrEnum):
    """What happened."""

    CORRECTION = "correction"
    """The teacher has answered what the student had answered first."""
    SWAPPED = "swapped"
    """Another student answers from now on."""
    DIRECTED = "directed"
    """The cloud changed the policy."""
    ACCESS_DENIED = "access_denied"
    """The cloud refuses this node's credentials; an operator must act."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        kind: What happened.
        bundle: Id of the student that answers now.
        answer: The corrected answer, for a correction.
        previous: The answer it corrects.
    """

    kind: EventKind
    bundle: str = ""
    answer: Answer | None = None
    previous: Answer | None = None


Listener = Callable[[Event], None]


class Events:
    """The listeners of one client; what they raise is counted and goes no further."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Adds a listener; call what is returned to remove it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(x for x in self._listeners if x is not listener)

        return remove

    def emit(self, event: Event, *extra: Listener | None) -> None:
        """Tells everybody, and `extra` first."""
        for listener in (*extra, *self._listeners):
            if listener is None:
                continue
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a product's bug must not become ours
                self._telemetry.fault(Fault.HOOK)

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()
