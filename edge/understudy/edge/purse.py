"""The budget of teacher calls of this process, kept by the router's governor."""

from __future__ import annotations

import threading

from understudy.router.budget import Governor
from understudy.types.decision import NEVER_KEEP


class Purse:
    """The governor's state over the requests of one client; thread-safe.

    Args:
        share: Largest share of requests that may call the teacher; 1 is no limit.
    """

    def __init__(self, share: float) -> None:
        self._lock = threading.Lock()
        self._governor = Governor(share) if share < 1.0 else None

    @property
    def threshold(self) -> float:
        """What the budget allows now; infinite without a limit."""
        governor = self._governor
        return NEVER_KEEP if governor is None else governor.threshold

    def spend(self, *, spent: bool) -> None:
        """Notes one request, and whether it called the teacher."""
        if self._governor is None:
            return
        with self._lock:
            self._governor = self._governor.step(spent=spent)

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()
