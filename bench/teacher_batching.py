"""Does batching pay in the transformers teacher, on this machine's processors?

One input per forward pass against many: first the engine alone, counted in processor seconds so
that a busy machine disturbs it little; then through Ray Serve, where the inputs of concurrent calls
share a pass, by the clock. Each round asks for the same texts every way in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from understudy.cloud.ray_start import RayOptions
from understudy.cloud.serve_client import ServeTeacher
from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.teacher import (
    PACKAGED_MINILM,
    ScoreRequest,
    TeacherSpec,
    fit_linear_teacher,
    head_spec,
    make_engine,
)
from understudy.cloud.teacher.spec import Precision

ROWS = Path(__file__).parents[1] / "examples" / "support-desk" / "utterances.jsonl"
Way = Callable[[list[ScoreRequest]], Awaitable[int]]


async def main() -> None:
    options = arguments()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    random.Random(options.seed).shuffle(rows)
    with tempfile.TemporaryDirectory(prefix="us-", dir="/tmp") as folder:
        spec = teacher(Path(folder), rows[: options.fit_rows], options.threads)
        spec = replace(spec, precision=options.precision)
        texts = [ScoreRequest(text=row["text"]) for row in rows[-options.texts :]]
        alone = await engine_rates(spec, texts, options.rounds, options.batches)
        serve = ServeOptions(
            app="bench", replica_cpus=1, ray=RayOptions(cpus=4, temp_dir=f"{folder}/ray")
        )
        served = {}
        if options.callers:
            served = await serve_rates(spec, serve, texts, options.rounds, options.callers)
    result = {"inputs": len(texts), "engine": alone, "serve": served}
    report("engine alone, inputs per pass", "inputs per processor second", alone)
    if served:
        report("through Ray Serve, callers of one input each", "inputs a second", served)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


async def engine_rates(
    spec: TeacherSpec, texts: list[ScoreRequest], rounds: int, batches: list[int]
) -> dict[str, list[float]]:
    """Inputs a processor second by batch size, one figure a round."""
    engines = {size: make_engine(replace(spec, max_batch=size)) for size in batches}
    for engine in engines.values():
        await engine.start()
        await engine.score_labels(texts[:8])
    rates: dict[str, list[float]] = {str(size): [] for size in batches}
    for _ in range(rounds):
        for size, engine in engines.items():
            started = time.process_time()
            await engine.score_labels(texts)
            rates[str(size)].append(len(texts) / (time.process_time() - started))
    for engine in engines.values():
        await engine.stop()
    return rates


async def serve_rates(
    spec: TeacherSpec,
    serve: ServeOptions,
    texts: list[ScoreRequest],
    rounds: int,
    callers: list[int],
) -> dict[str, list[float]]:
    """Inputs a second by number of concurrent callers, one figure a round."""
    teacher = ServeTeacher(replace(spec, max_batch=32), serve_room(serve, max(callers)))
    await teacher.start()
    await teacher.score_labels(texts[:8])
    rates: dict[str, list[float]] = {str(count): [] for count in callers}
    for _ in range(rounds):
        for count in callers:
            left = list(texts)
            started = time.perf_counter()
            await asyncio.gather(*(_caller(teacher, left) for _ in range(count)))
            rates[str(count)].append(len(texts) / (time.perf_counter() - started))
    await teacher.stop()
    return rates


async def _caller(teacher: ServeTeacher, left: list[ScoreRequest]) -> None:
    while left:
        (answer,) = await teacher.score_labels([left.pop()])
        if isinstance(answer, Exception):
            raise answer


def serve_room(serve: ServeOptions, callers: int) -> ServeOptions:
    return replace(serve, max_ongoing_calls=callers, max_queued_calls=callers)


def teacher(folder: Path, rows: list[dict[str, str]], threads: int) -> TeacherSpec:
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    head = fit_linear_teacher(texts, labels, PACKAGED_MINILM, folder / "head")
    return head_spec(head, threads=threads)


def report(title: str, unit: str, rates: dict[str, list[float]]) -> None:
    base = rates["1"]
    print(f"\n| {title} | {unit} (median) | times batch 1 (median of rounds) |\n|---|---|---|")
    for name, values in rates.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--fit-rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--callers", type=int, nargs="*", default=[1, 8, 32], help="none: the engine alone"
    )
    parser.add_argument("--precision", type=Precision, default=Precision.FLOAT32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="more texts and rounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.full:
        options.texts, options.rounds = 1024, 7
    return options


if __name__ == "__main__":
    logging.getLogger("ray").setLevel(logging.ERROR)
    asyncio.run(main())
