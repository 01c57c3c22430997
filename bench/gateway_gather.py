"""What gathering escalations into one teacher call brings, against one call each.

The teacher costs a fixed time a call, as a Ray Serve handle does: 3.6 ms by default, one call at a
time, whatever the batch. Two numbers: requests a second with many callers, and the time a lone
request spends in the gatherer over a bare call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.metrics import Metrics
from understudy.cloud.teacher import ScoreRequest
from understudy.types.errors import UnderstudyError
from understudy.types.records import TeacherLabel

LABEL = TeacherLabel("t", "p", ("a", "b"), (-0.1, -2.4))


class Handle:
    """Takes calls one after the other, each for a fixed time."""

    def __init__(self, call_s: float) -> None:
        self._call_s = call_s
        self._turn = asyncio.Lock()

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        async with self._turn:
            await asyncio.sleep(self._call_s)
        return [LABEL for _ in requests]


async def rate(handle: Handle, *, gathered: bool, callers: int, seconds: float) -> float:
    gatherer = Gatherer(handle, Metrics(), max_batch=64 if gathered else 1)
    end, done = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await gatherer.score(ScoreRequest(text="hi"))
            done += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    await gatherer.close()
    return done / seconds


async def lone_ms(call_s: float, rounds: int) -> tuple[float, float]:
    """Median of a lone request through the gatherer, and of a bare call."""
    handle = Handle(call_s)
    gatherer = Gatherer(handle, Metrics())
    through, bare = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        await gatherer.score(ScoreRequest(text="hi"))
        through.append(time.perf_counter() - started)
        started = time.perf_counter()
        await handle.score_labels([ScoreRequest(text="hi")])
        bare.append(time.perf_counter() - started)
    await gatherer.close()
    return statistics.median(through) * 1e3, statistics.median(bare) * 1e3


async def measure(call_s: float, callers: int, seconds: float) -> dict[str, float]:
    each = await rate(Handle(call_s), gathered=False, callers=callers, seconds=seconds)
    together = await rate(Handle(call_s), gathered=True, callers=callers, seconds=seconds)
    through, bare = await lone_ms(call_s, 200)
    return {
        "call_ms": call_s * 1e3,
        "callers": callers,
        "one_call_each_per_s": each,
        "gathered_per_s": together,
        "ratio": together / each,
        "lone_bare_ms": bare,
        "lone_through_gatherer_ms": through,
        "lone_added_ms": through - bare,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--call-ms", type=float, default=3.6, help="what a teacher call costs")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="longer")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    seconds = 15.0 if options.full else 4.0
    found = asyncio.run(measure(options.call_ms / 1e3, options.callers, seconds))
    print("| figure | value |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.4g} |")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
