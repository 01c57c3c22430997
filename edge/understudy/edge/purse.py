"""The budget of teacher calls of this process, kept by the router's governor."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from dataclasses import replace

from understudy.router.budget import Governor, Spending, rank_threshold
from understudy.types.decision import NEVER_KEEP

RECENT = 300
"""Requests among which a confidence is ranked: enough for a per cent, soon forgotten on drift."""


class Purse:
    """The governor's state over the requests of one client; thread-safe.

    It counts in ranks: the threshold is the share of recent requests that may ask. So it spends on
    the least sure whatever scale their confidences have, and a new student with another calibration
    changes nothing. The share of the moment is the first guess, and the governor mends it by what
    was spent: after T requests at most `budget * T + (last share + gain) / gain` have asked.

    Args:
        spending: Largest share of requests that may call the teacher, and how it is spread; 1 is no
            limit.
    """

    def __init__(self, spending: Spending) -> None:
        self._lock = threading.Lock()
        self._spending = spending
        self._governor = Governor(spending.at(0), 0.0) if spending.budget < 1.0 else None
        self._requests = 0
        self._recent: deque[float] = deque()
        self._ranked: list[float] = []

    @property
    def threshold(self) -> float:
        """The confidence from which the budget keeps an answer now; infinite without a limit."""
        if self._governor is None:
            return NEVER_KEEP
        with self._lock:
            share = self._governor.budget + self._governor.threshold
            return rank_threshold(self._ranked, share)

    def see(self, confidence: float) -> None:
        """Notes how sure the student was of one request; 0 where it cannot be used."""
        if self._governor is None:
            return
        with self._lock:
            if len(self._recent) == RECENT:
                del self._ranked[bisect_left(self._ranked, self._recent.popleft())]
            self._recent.append(confidence)
            insort(self._ranked, confidence)

    def spend(self, *, spent: bool) -> None:
        """Notes one request, and whether it called the teacher."""
        if self._governor is None:
            return
        with self._lock:
            self._governor = self._governor.step(spent=spent)
            self._requests += 1
            budget = self._spending.at(self._requests)
            self._governor = replace(self._governor, budget=budget)

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()
