"""What gateway and Ray Serve add to a lone request, over the engine alone.

The engine repeats recorded answers, so that what is measured is the way there and back: mutual TLS,
checks, the teacher's call, the row on disk. Three ways in turns: the engine in this process, a
gateway with the engine inside, a gateway with the engine on Ray Serve. One call at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from gateway_fleet import (
    TEXTS,
    Badge,
    connected,
    enroll_nodes,
    gateway_process,
    message,
    prepare_state,
    write_config,
)

from understudy.cloud.teacher import ScoreRequest, TeacherSpec, make_engine
from understudy.cloud.teacher.spec import Engine

Call = Callable[[], Awaitable[object]]
WAYS = {"gateway": {}, "gateway and Serve": {"serve": "{replica_cpus: 0.5, ray: {cpus: 2}}"}}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="us-", dir="/tmp") as name, ExitStack() as stack:
        places: dict[str, tuple[str, Badge]] = {}
        for number, (way, sections) in enumerate(WAYS.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            config = write_config(folder, **sections)
            prepare_state(config)
            badge = enroll_nodes(config, 1)[0]
            places[way] = (stack.enter_context(gateway_process(config))[1], badge)
        found = asyncio.run(measure(Path(name) / "0" / "answers.jsonl", places, options))
    report(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


async def measure(
    recordings: Path, places: dict[str, tuple[str, Badge]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Median milliseconds of a lone call, one figure a round, by way."""
    engine = make_engine(TeacherSpec(engine=Engine.REPLAY, recordings=str(recordings)))
    await engine.start()
    rng = np.random.default_rng(0)
    calls: dict[str, Call] = {
        "engine alone": lambda: engine.score_labels([ScoreRequest(text=TEXTS[0])])
    }
    for way, (address, badge) in places.items():
        ask = await connected(address, badge)
        calls[way] = lambda ask=ask: ask(message(rng), timeout=20)  # type: ignore[misc]
    found: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(options.rounds + 1):
        for way, call in calls.items():
            found[way].append(await lone_ms(call, options.lone))
    return {way: values[1:] for way, values in found.items()}  # the first round warms up


async def lone_ms(call: Call, count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def report(found: dict[str, list[float]]) -> None:
    base = found["engine alone"]
    print("| way | a lone call, ms (median of rounds) | lowest round | added to the engine |")
    print("|---|---|---|---|")
    for way, values in found.items():
        added = statistics.median(v - b for v, b in zip(values, base, strict=True))
        print(f"| {way} | {statistics.median(values):.2f} | {min(values):.2f} | {added:+.2f} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lone", type=int, default=100, help="calls of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--full", action="store_true", help="longer rounds, and more of them")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if options.full:
        options.lone, options.rounds = 400, 15
    return options


if __name__ == "__main__":
    main()
