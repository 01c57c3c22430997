"""What one node may use: token buckets, pure values of time.

Gateway processes that share a log also share these: each tells what nodes used of it (`take_usage`)
and charges what they used of the others (`charge`). A node that spreads its calls over all of them
goes over by what it can use between two such exchanges, and pays it back afterwards.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from understudy.types.errors import OverloadedError

_MAX_NODES = 100_000
_PROMPT_REFUSALS_PER_S = 20.0
"""A node that is refused more often than that hears of it later and later: its refusals leave one
by one, at this pace."""
_LONGEST_HOLD_S = 10.0
"""More refusals than fit into this time wait for nobody: the calls of one connection are fewer."""


class QuotaError(OverloadedError):
    """A node used more than its share; others did not."""


class TokenBucket:
    """Fills at `rate` a second up to `rate * burst_s`; a rate of 0 is without limit.

    A spend larger than the bucket is allowed once the bucket is full and leaves a debt, so that one
    large request is slow but never impossible.
    """

    __slots__ = ("_capacity", "_level", "_rate", "_seen_s")

    def __init__(self, rate: float, burst_s: float, now_s: float) -> None:
        self._rate = rate
        self._capacity = rate * burst_s
        self._level = self._capacity
        self._seen_s = now_s

    def spend(self, amount: float, now_s: float) -> float:
        """Takes `amount` and returns 0, or takes nothing and returns the seconds to wait."""
        if self._rate <= 0.0:
            return 0.0
        self._fill(now_s)
        missing = min(amount, self._capacity) - self._level
        if missing > 1e-9:
            return missing / self._rate
        self._level -= amount
        return 0.0

    def owe(self, amount: float, now_s: float, *, most_s: float) -> float:
        """Takes `amount` even from an empty bucket; returns the seconds until the debt is paid.

        Args:
            amount: What is taken.
            now_s: The clock.
            most_s: The debt stops growing at so many seconds.
        """
        self._fill(now_s)
        self._level = max(self._level - amount, -most_s * self._rate)
        return max(0.0, -self._level / self._rate)

    def charge(self, amount: float, now_s: float) -> None:
        """Takes what was used elsewhere; the debt is paid back before anything else is granted."""
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        passed = max(0.0, now_s - self._seen_s)
        self._seen_s = max(self._seen_s, now_s)
        self._level = min(self._capacity, self._level + passed * self._rate)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a node used.

    Attributes:
        calls: Calls of any kind.
        bytes: Bytes of its messages.
        teacher: Inputs put to the teacher.
    """

    calls: float = 0.0
    bytes: float = 0.0
    teacher: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls, self.bytes + other.bytes, self.teacher + other.teacher
        )


@dataclass(slots=True)
class _Node:
    requests: TokenBucket
    bytes: TokenBucket
    teacher: TokenBucket
    refusals: TokenBucket


class Quotas:
    """The buckets of every node, forgotten when a node has long been quiet."""

    def __init__(
        self,
        *,
        requests_per_s: float,
        bytes_per_s: float,
        teacher_calls_per_s: float,
        burst_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._rates = (requests_per_s, bytes_per_s, teacher_calls_per_s)
        self._burst_s = burst_s
        self._clock = clock
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        self._untold: dict[str, Usage] = {}
        self.shared = any(self._rates)

    def spend_request(self, node: str, size: int) -> None:
        """Charges one call of `size` bytes.

        Raises:
            QuotaError: If the node is over its quota; says for how long.
        """
        now, buckets = self._clock(), self._buckets(node)
        _check(buckets.requests.spend(1.0, now), node, "calls")
        _check(buckets.bytes.spend(size, now), node, "bytes")
        self._note(node, Usage(1.0, size))

    def spend_teacher(self, node: str, calls: int) -> None:
        """Charges inputs that are put to the teacher.

        Raises:
            QuotaError: If the node is over its quota; says for how long.
        """
        _check(self._buckets(node).teacher.spend(calls, self._clock()), node, "teacher calls")
        self._note(node, Usage(teacher=calls))

    def take_usage(self) -> dict[str, Usage]:
        """What nodes used of this process since the last time, by node."""
        taken, self._untold = self._untold, {}
        return taken

    def charge(self, used: Mapping[str, Usage]) -> None:
        """Takes into account what nodes used of other processes."""
        now = self._clock()
        for node, usage in used.items():
            buckets = self._buckets(node)
            buckets.requests.charge(usage.calls, now)
            buckets.bytes.charge(usage.bytes, now)
            buckets.teacher.charge(usage.teacher, now)

    def hold_s(self, node: str) -> float:
        """Seconds to keep a refusal of this node back; infinite: it does not wait for its refusals.

        A flood costs the gateway as much as it can send. Streams of a connection are bounded, so
        answering its refusals late slows it down; a node that is now and then over its quota hears
        at once. Who owes more refusals than its connection can wait for gives its calls up and
        sends new ones: late answers do not slow that down.
        """
        owed_s = self._buckets(node).refusals.owe(1.0, self._clock(), most_s=_LONGEST_HOLD_S)
        return math.inf if owed_s >= _LONGEST_HOLD_S else owed_s

    def _note(self, node: str, used: Usage) -> None:
        if not self.shared:
            return
        before = self._untold.get(node)
        self._untold[node] = used if before is None else before + used

    def _buckets(self, node: str) -> _Node:
        found = self._nodes.get(node)
        if found is not None:
            self._nodes.move_to_end(node)
            return found
        if len(self._nodes) >= _MAX_NODES:
            self._nodes.popitem(last=False)
        now = self._clock()
        calls, size, teacher = (TokenBucket(rate, self._burst_s, now) for rate in self._rates)
        made = _Node(calls, size, teacher, TokenBucket(_PROMPT_REFUSALS_PER_S, 1.0, now))
        self._nodes[node] = made
        return made


def _check(wait_s: float, node: str, what: str) -> None:
    if wait_s > 0.0:
        raise QuotaError(
            f"node '{node}' is over its quota of {what}; come back in {math.ceil(wait_s)} s", wait_s
        )
