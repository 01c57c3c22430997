"""How much of a budget is kept back for the way home from a call to the cloud.

A call that ends at its deadline comes back later than that: a timer of gRPC's has to be scheduled,
then the caller's thread, and on a busy machine each waits for a core. How long that takes is
learned from the calls that came back late, so that the product's budget holds all the same.
"""

from __future__ import annotations

LEAST_S = 0.004
MOST_S = 0.05
LARGEST_SHARE = 0.25
"""No more than this of what is left is ever kept back: the teacher needs time, too."""
_SPARE = 1.25
_MEMORY = 0.98
"""What is learned fades by this factor a call."""


class Margin:
    """Time kept back; shared by threads without a lock, since a lost note does no harm."""

    def __init__(self) -> None:
        self._kept_s = LEAST_S

    def of(self, left_s: float) -> float:
        """Seconds to keep back from what is left of a budget."""
        return min(self._kept_s, LARGEST_SHARE * left_s)

    def note(self, late_s: float) -> None:
        """Learns from a call that came back `late_s` seconds after it should have ended."""
        faded = self._kept_s * _MEMORY
        self._kept_s = min(MOST_S, max(LEAST_S, faded, late_s * _SPARE))
