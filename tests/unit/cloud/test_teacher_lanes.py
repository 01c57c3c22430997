"""Label scoring and top log-probabilities never share a batch: vLLM would mix up their numbers."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.cloud.teacher.lanes import Lane, LaneGate


async def settle() -> None:
    """Lets every task that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Visitor:
    """A task in the gate until it is told to leave."""

    def __init__(self, gate: LaneGate, lane: Lane) -> None:
        self.lane = lane
        self._inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate))

    def is_inside(self) -> bool:
        return self._inside

    async def _visit(self, gate: LaneGate) -> None:
        async with gate.enter(self.lane):
            self._inside = True
            try:
                await self.leave.wait()
            finally:
                self._inside = False


async def test_one_lane_holds_any_number_at_once() -> None:
    gate = LaneGate()
    visitors = [Visitor(gate, Lane.LABELS) for _ in range(5)]
    await settle()

    assert all(visitor.is_inside() for visitor in visitors)
    for visitor in visitors:
        visitor.leave.set()
        await visitor.task


async def test_the_other_lane_waits_until_the_last_has_left() -> None:
    gate = LaneGate()
    first, second = Visitor(gate, Lane.LABELS), Visitor(gate, Lane.LABELS)
    await settle()
    other = Visitor(gate, Lane.TOP)
    first.leave.set()
    await settle()
    assert not other.is_inside()

    second.leave.set()
    await settle()
    assert other.is_inside()

    other.leave.set()
    await other.task


async def test_a_steady_stream_in_one_lane_does_not_starve_the_other() -> None:
    """Whoever comes after a waiting visitor waits behind it, even if its own lane is open."""
    gate = LaneGate()
    running = Visitor(gate, Lane.LABELS)
    await settle()
    waiting = Visitor(gate, Lane.TOP)
    await settle()
    late = Visitor(gate, Lane.LABELS)
    await settle()
    assert not late.is_inside()

    running.leave.set()
    await settle()
    assert waiting.is_inside()
    assert not late.is_inside()

    waiting.leave.set()
    await settle()
    assert late.is_inside()
    late.leave.set()
    await late.task


async def test_a_visitor_that_gives_up_opens_the_way_for_those_behind_it() -> None:
    gate = LaneGate()
    running = Visitor(gate, Lane.LABELS)
    await settle()
    waiting, behind = Visitor(gate, Lane.TOP), Visitor(gate, Lane.LABELS)
    await settle()

    waiting.task.cancel()
    await settle()

    assert behind.is_inside()
    for visitor in (running, behind):
        visitor.leave.set()
        await visitor.task
    assert repr(gate) == "LaneGate(lane=labels, inside=0, waiting=0)"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave", "cancel"]), st.booleans()), max_size=40)
)
def test_lanes_never_mix_and_nobody_is_forgotten(steps: list[tuple[str, bool]]) -> None:
    async def play() -> None:
        gate = LaneGate()
        visitors: list[Visitor] = []
        for word, labels in steps:
            if word == "enter":
                visitors.append(Visitor(gate, Lane.LABELS if labels else Lane.TOP))
            elif visitors:
                one = visitors[0 if labels else -1]
                one.leave.set() if word == "leave" else one.task.cancel()
            await settle()
            assert len({visitor.lane for visitor in visitors if visitor.is_inside()}) <= 1
        for visitor in visitors:
            visitor.leave.set()
        await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
        assert "inside=0, waiting=0" in repr(gate)

    asyncio.run(play())
