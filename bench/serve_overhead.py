"""What a call through Ray Serve costs, and what gathering concurrent escalations into one saves.

The teacher repeats recorded answers, so that everything measured is the way there and back. Three
figures, taken in turns: calls of one input each, the same inputs gathered, and a lone input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from understudy.cloud.gateway.gather import Gatherer
from understudy.cloud.ray_start import RayOptions
from understudy.cloud.serve_client import ServeTeacher
from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.teacher import ScoreRequest, TeacherSpec
from understudy.cloud.teacher.spec import Engine
from understudy.types.records import EscalationRecord
from understudy.types.release import NodeStatus

Ask = Callable[[ScoreRequest], Awaitable[object]]


class Silent:
    """An observer that counts nothing."""

    def called(self, method: str, code: str, seconds: float) -> None: ...
    def refused(self, error: BaseException) -> None: ...
    def cut(self) -> None: ...
    def took(self, records: Iterable[EscalationRecord], way: str) -> None: ...
    def answered(self, task: str, way: str) -> None: ...

    def looked_up(self, *, found: bool) -> None: ...
    def asked(self, inputs: int, seconds: float, failures: Sequence[BaseException]) -> None: ...
    def checked_in(self, task: str, status: NodeStatus) -> None: ...


async def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="us-", dir="/tmp") as folder:
        teacher = ServeTeacher(
            recordings(Path(folder), options.labels),
            ServeOptions(
                app="bench",
                replica_cpus=1,
                max_ongoing_calls=options.callers,
                max_queued_calls=4 * options.callers,
                ray=RayOptions(cpus=4, temp_dir=f"{folder}/ray"),
            ),
        )
        await teacher.start()
        gatherer = Gatherer(teacher, Silent())

        async def one(request: ScoreRequest) -> object:
            (answer,) = await teacher.score_labels([request])
            return answer

        result = await measure(one, gatherer.score, options)
        await gatherer.close()
        await teacher.stop()
    report(result, options.callers)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


async def measure(
    one: Ask, gathered: Ask, options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Rates and lone latencies of both ways, one figure a round."""
    ways = {"one call each": one, "gathered": gathered}
    found: dict[str, dict[str, list[float]]] = {name: {"rate": [], "lone_ms": []} for name in ways}
    for ask in ways.values():
        await rate(ask, options.callers, 1.0)
    for _ in range(options.rounds):
        for name, ask in ways.items():
            found[name]["rate"].append(await rate(ask, options.callers, options.seconds))
            found[name]["lone_ms"].append(await lone_ms(ask, options.lone))
    return found


async def rate(ask: Ask, callers: int, seconds: float) -> float:
    """Answers a second with so many callers, each waiting for its own."""
    until = time.perf_counter() + seconds
    done = 0

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < until:
            answer = await ask(ScoreRequest(text=f"text {number}"))
            if isinstance(answer, Exception):
                raise answer
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return done / (time.perf_counter() - started)


async def lone_ms(ask: Ask, count: int) -> float:
    """Median milliseconds of one request with nobody else there."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await ask(ScoreRequest(text="text 0"))
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def recordings(folder: Path, labels: int) -> TeacherSpec:
    probabilities = {f"label {index}": 1 / labels for index in range(labels)}
    rows = [{"text": f"text {n}", "teacher_probs": probabilities} for n in range(256)]
    path = folder / "recorded.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return TeacherSpec(engine=Engine.REPLAY, recordings=str(path))


def report(found: dict[str, dict[str, list[float]]], callers: int) -> None:
    print(f"\n| way | answers/s with {callers} callers (median) | lone request, ms (median) |")
    print("|---|---|---|")
    for name, figures in found.items():
        middle = {key: statistics.median(values) for key, values in figures.items()}
        print(f"| {name} | {middle['rate']:.0f} | {middle['lone_ms']:.2f} |")
    one, gathered = found["one call each"], found["gathered"]
    times = [g / o for g, o in zip(gathered["rate"], one["rate"], strict=True)]
    added = [g - o for g, o in zip(gathered["lone_ms"], one["lone_ms"], strict=True)]
    print(f"\ngathered / one call each: {statistics.median(times):.1f} times (median of rounds)")
    print(f"added to a lone request: {statistics.median(added):+.2f} ms (median of rounds)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--lone", type=int, default=100)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="longer rounds, and more of them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.full:
        options.seconds, options.rounds = 10.0, 9
    return options


if __name__ == "__main__":
    logging.getLogger("ray").setLevel(logging.ERROR)
    asyncio.run(main())
