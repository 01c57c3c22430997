"""When to leave the cloud alone.

Three rules, first match counts:

1. Refused credentials open the circuit until they change: asking again only fills the server's log.
2. Push-back is obeyed to the second.
3. A cloud that fails is asked less, by adaptive throttling: over a sliding window a request is held
   back with probability (requests - K * accepts) / (requests + 1). Some always go through, so that
   recovery is seen without a timer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from understudy.types.decision import Reason
from understudy.types.errors import AccessError, DeadlineError, OverloadedError, UnderstudyError

WINDOW_S = 120.0
BUCKETS = 12
MULTIPLIER = 2.0
PATIENCE = 8
"""Failures in the window before anything is held back: a blip must not cost an answer."""


def reason_of(error: UnderstudyError) -> Reason:
    """The word for a failed call."""
    match error:
        case AccessError():
            return Reason.ACCESS_DENIED
        case OverloadedError():
            return Reason.OVERLOADED
        case DeadlineError():
            return Reason.DEADLINE
        case _:
            return Reason.LINK_DOWN if error.retryable else Reason.TEACHER_FAILED


class Circuit:
    """The state of one target; thread-safe.

    Args:
        clock: Seconds, monotonic.
        draw: A number in [0, 1).
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._draw = clock, draw
        self._lock = threading.Lock()
        self._requests = [0] * BUCKETS
        self._accepts = [0] * BUCKETS
        self._number = int(clock() // (WINDOW_S / BUCKETS))
        self._bucket = self._number % BUCKETS
        self._wait_until = float("-inf")
        self._refused = False

    def obstacle(self) -> Reason | None:
        """Why the cloud must not be asked now; None when it may be."""
        with self._lock:
            if self._refused:
                return Reason.ACCESS_DENIED
            now = self._clock()
            if now < self._wait_until:
                return Reason.OVERLOADED
            self._turn(now)
            requests, accepts = sum(self._requests), sum(self._accepts)
            surplus = requests - MULTIPLIER * accepts - PATIENCE
            if self._draw() < surplus / (requests + 1):
                # Held-back requests count too: that is what makes the rate fall further.
                self._requests[self._bucket] += 1
                return Reason.THROTTLED
            return None

    def succeeded(self) -> None:
        """Notes an answer."""
        self._note(accepted=True)

    def failed(self, error: UnderstudyError) -> None:
        """Notes a failure."""
        if isinstance(error, AccessError):
            self._refused = True
            return
        wait_s = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
        with self._lock:
            self._wait_until = max(self._wait_until, self._clock() + wait_s)
        # A server that says how long to wait lives: patience, not suspicion.
        self._note(accepted=wait_s > 0)

    def credentials_changed(self) -> None:
        """Closes the circuit that refused credentials had opened."""
        self._refused = False

    @property
    def refused(self) -> bool:
        """True while the cloud refuses this node's credentials."""
        return self._refused

    @property
    def healthy(self) -> bool:
        """True if nothing, or hardly anything, failed lately."""
        with self._lock:
            return sum(self._requests) <= sum(self._accepts) + PATIENCE

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()

    def _note(self, *, accepted: bool) -> None:
        with self._lock:
            self._turn(self._clock())
            self._requests[self._bucket] += 1
            self._accepts[self._bucket] += accepted

    def _turn(self, now: float) -> None:
        """Forgets the buckets that have left the window."""
        number = int(now // (WINDOW_S / BUCKETS))
        for step in range(min(number - self._number, BUCKETS)):
            slot = (self._bucket + 1 + step) % BUCKETS
            self._requests[slot] = self._accepts[slot] = 0
        self._number, self._bucket = number, number % BUCKETS
