"""How closely does vLLM's label distribution agree with transformers' logits, and how fast is it?

Any local instruction model; without `--model` a tiny random Llama. Every way of asking is compared:
one letter per class, names that share beginnings, averaged orders.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from understudy.cloud.teacher import PromptOptions, ScoreRequest, TeacherSpec
from understudy.cloud.teacher.spec import Alias, Engine, Runner
from understudy.cloud.teacher.vllm_engine import VllmEngine
from understudy.types.records import TeacherLabel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from simulators.models import tiny_llama  # noqa: E402 - the tests' far sides lie beside the package
from simulators.reference import Reference  # noqa: E402

WAYS = {
    "letters": PromptOptions(),
    "names": PromptOptions(alias=Alias.NAME),
    "letters in 3 orders": PromptOptions(permutations=3),
}


async def main() -> None:
    options = arguments()
    rows = [
        json.loads(line)
        for line in (ROOT / "examples/support-desk/utterances.jsonl").read_text().splitlines()
    ]
    labels = tuple(sorted({row["label"] for row in rows}))[: options.labels]
    texts = [row["text"] for row in rows[:: max(1, len(rows) // options.texts)]][: options.texts]
    with tempfile.TemporaryDirectory(prefix="us-") as folder:
        model = options.model or tiny_llama(Path(folder))
        result = await compare(str(model), labels, texts, options.max_tokens)
    report(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


async def compare(
    model: str, labels: tuple[str, ...], texts: list[str], max_tokens: int
) -> dict[str, dict[str, float]]:
    """Largest differences and inputs a second, by way of asking."""
    spec = TeacherSpec(
        engine=Engine.VLLM,
        model=model,
        runner=Runner.GENERATE,
        labels=labels,
        engine_args={"max_model_len": max_tokens},
    )
    reference = Reference(model, max_tokens)
    first = VllmEngine(spec)
    await first.start()
    result = {}
    for name, options in WAYS.items():
        engine = VllmEngine(replace(spec, prompt=options), first.process)
        await engine.score_labels([ScoreRequest(text="warm up")])
        started = time.perf_counter()
        answers = await engine.score_labels([ScoreRequest(text=text) for text in texts])
        seconds = time.perf_counter() - started
        gaps = [
            gap(answer, *reference.label(text, labels, options))
            for text, answer in zip(texts, answers, strict=True)
        ]
        worst = np.max(np.array(gaps), axis=0)
        result[name] = {
            "probability": float(worst[0]),
            "log_probability": float(worst[1]),
            "mass": float(worst[2]),
            "inputs_per_s": len(texts) / seconds,
        }
    await first.stop(5.0)
    return result


def gap(answer: object, expected: dict[str, float], mass: float) -> tuple[float, float, float]:
    """Largest difference of a probability, of a log-probability, and of the label mass."""
    if not isinstance(answer, TeacherLabel):
        raise TypeError(f"vLLM gave no label: {answer}")
    wanted = np.log([expected[label] for label in answer.labels])
    given = np.array(answer.log_probs)
    return (
        float(np.abs(np.exp(given) - np.exp(wanted)).max()),
        float(np.abs(given - wanted).max()),
        abs(answer.label_mass - mass),
    )


def report(result: dict[str, dict[str, float]]) -> None:
    print("\n| way | largest gap: probability | log-probability | label mass | inputs/s |")
    print("|---|---|---|---|---|")
    for name, row in result.items():
        gaps = " | ".join(f"{row[key]:.1e}" for key in ("probability", "log_probability", "mass"))
        print(f"| {name} | {gaps} | {row['inputs_per_s']:.1f} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, help="folder of an instruction model")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--labels", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--full", action="store_true", help="more texts and classes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.full:
        options.texts, options.labels = 200, 30
    return options


if __name__ == "__main__":
    asyncio.run(main())
