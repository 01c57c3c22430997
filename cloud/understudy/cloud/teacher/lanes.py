"""Two kinds of work that must never be under way together; each may be, any number at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum


class Lane(StrEnum):
    """What a request asks of the sampler."""

    LABELS = "labels"
    """Log-probabilities of given tokens."""
    TOP = "top"
    """Log-probabilities of the best tokens."""


class LaneGate:
    """Lets one lane through at a time, in the order of arrival.

    vLLM's first model runner answers a whole batch with the label tensors as soon as one request
    of it has `logprob_token_ids`; rows that asked for the best tokens then get minus infinity.
    First come, first served keeps a steady stream in one lane from starving the other.
    """

    def __init__(self) -> None:
        self._lane: Lane | None = None
        self._inside = 0
        self._waiting: deque[tuple[Lane, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def enter(self, lane: Lane) -> AsyncIterator[None]:
        """Waits for the lane; leaves it at the end of the block."""
        if self._waiting or not self._open_for(lane):
            await self._wait(lane)
        else:
            self._admit(lane)
        try:
            yield
        finally:
            self._leave()

    def __repr__(self) -> str:
        return f"LaneGate(lane={self._lane}, inside={self._inside}, waiting={len(self._waiting)})"

    def _open_for(self, lane: Lane) -> bool:
        return self._inside == 0 or self._lane is lane

    def _admit(self, lane: Lane) -> None:
        self._lane = lane
        self._inside += 1

    def _leave(self) -> None:
        self._inside -= 1
        self._wake()

    async def _wait(self, lane: Lane) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (lane, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the very moment of being admitted: give the place back.
            if turn.done() and not turn.cancelled():
                self._leave()
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._open_for(self._waiting[0][0]):
            lane, turn = self._waiting.popleft()
            if not turn.done():
                self._admit(lane)
                turn.set_result(None)
