"""What would a user pick instead, and how fast, small and right is it beside `predict`?

The same sentences one at a time, one thread, contestants take turns. Instead of us: the teacher's
encoder (all-MiniLM-L6-v2) with a linear head, in PyTorch float32 (a sentence-transformers- or
SetFit-style pipeline), in ONNX Runtime float32, and there quantised to INT8. All heads are fitted
on the same rows of the data's training set; the student is the bundle given, without a cloud.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from understudy.distill_loop.base import find_base
from understudy.distill_loop.export import export_onnx, open_graph, run_graph
from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.recipe import HeadRecipe
from understudy.distill_loop.student import encode, whole_base
from understudy.edge import EdgeClient

DATA = Path(os.environ.get("UNDERSTUDY_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
Encode = Callable[[list[str]], Any]


def rows_of(name: str) -> list[tuple[str, str]]:
    with (DATA / "banking77" / name).open(encoding="utf-8") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def teachers(folder: Path) -> dict[str, tuple[Encode, float]]:
    """Encoder and size in MB by name."""
    base = whole_base(find_base("minilm"), max_tokens=64)
    plain, small = folder / "plain.onnx", folder / "int8.onnx"
    plain.write_bytes(export_onnx(base))
    quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
    sessions = {path: open_graph(path.read_bytes()) for path in (plain, small)}
    parameters = sum(p.numel() * p.element_size() for p in base.encoder.parameters()) / 1e6
    return {
        "teacher, PyTorch float32": (lambda texts: encode(base, texts), parameters),
        "teacher, ONNX Runtime float32": (
            lambda texts: run_graph(sessions[plain], base.tokenizer, texts),
            plain.stat().st_size / 1e6,
        ),
        "teacher, ONNX Runtime INT8": (
            lambda texts: run_graph(sessions[small], base.tokenizer, texts),
            small.stat().st_size / 1e6,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a student trained on BANKING77")
    parser.add_argument("--train", type=int, default=1500, help="rows the linear heads see")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--full", action="store_true", help="every row of both sets")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    train, test = (
        [rows[i] for i in rng.permutation(len(rows))]
        for rows in map(rows_of, ("train.csv", "test.csv"))
    )
    if not args.full:
        train, test = train[: args.train], test[: args.test]
    with tempfile.TemporaryDirectory() as folder, EdgeClient.open(args.bundle) as client:
        report = measure(teachers(Path(folder)), client, Path(args.bundle), train, test)
    print(
        "| | p50 ms | p99 ms | CPU p50 ms | times slower | MB | accuracy |\n"
        "|---|---|---|---|---|---|---|"
    )
    ours = report["student, predict"]["cpu_p50"]
    for name, row in report.items():
        print(
            f"| {name} | {row['p50']:.2f} | {row['p99']:.2f} | {row['cpu_p50']:.2f} "
            f"| {row['cpu_p50'] / ours:.1f} | {row['mb']:.1f} | {row['accuracy']:.3f} |"
        )
    if args.out:
        args.out.write_text(json.dumps(report, indent=2))


def measure(
    contestants: dict[str, tuple[Encode, float]],
    client: EdgeClient,
    bundle: Path,
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
) -> dict[str, dict[str, float]]:
    names = sorted({label for _, label in train})
    gold = np.array([names.index(label) for _, label in train])
    texts = [text for text, _ in train]
    # One set of vectors for all heads: the encoder is the same, only its arithmetic differs.
    vectors = contestants["teacher, PyTorch float32"][0](texts)
    head = fit_head(vectors, gold, len(names), recipe=HeadRecipe(mix=0.0, max_bytes=2_000_000))

    def answer(run: Encode) -> Callable[[str], str]:
        return lambda text: names[int(apply_head(head, run([text]))[0][0].argmax())]

    runs = {name: answer(run) for name, (run, _) in contestants.items()}
    runs["student, predict"] = lambda text: client.predict(text).label
    sizes = {name: size for name, (_, size) in contestants.items()}
    sizes["student, predict"] = sum(f.stat().st_size for f in bundle.iterdir()) / 1e6
    took: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in runs}
    for text, label in test:
        for name, run in runs.items():
            cpu, wall = time.thread_time(), time.perf_counter()
            found = run(text)
            times = (time.perf_counter() - wall, time.thread_time() - cpu)
            took[name].append((times[0] * 1000, times[1] * 1000, found == label))
    return {name: summary(np.array(rows), sizes[name]) for name, rows in took.items()}


def summary(rows: np.ndarray, size: float) -> dict[str, float]:
    return {
        "p50": float(np.percentile(rows[5:, 0], 50)),
        "p99": float(np.percentile(rows[5:, 0], 99)),
        "cpu_p50": float(np.percentile(rows[5:, 1], 50)),
        "mb": size,
        "accuracy": float(rows[:, 2].mean()),
    }


if __name__ == "__main__":
    main()
