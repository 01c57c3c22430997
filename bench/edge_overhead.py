"""What does `predict` add to tokenizer and ONNX Runtime alone, quiet and with a busy disk?

The bare pair and the client take turns on the same texts, one thread: in blocks, as in a product
that calls one of them only, and text by text, where each finds the caches full of the other's
session. Busy means: every answer is audited, so each one goes to the spool on disk, while reports
fail against a port that refuses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from understudy.edge import EdgeClient, EdgeConfig
from understudy.edge.bundle import read_bundle
from understudy.edge.config import AuditConfig, GatewayConfig
from understudy.edge.ort import onnxruntime
from understudy.edge.student import OUTPUT, PROFILES, ProfileName, Student, session_options
from understudy.types.bundle import ENCODER, TOKENIZER

BLOCK = 25
WORDS = """my card has not arrived yet and the app shows the old address can you please look why
the transfer to another bank was refused twice last week although there was enough money"""


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randint(4, 18))) for _ in range(count)]


def bare_pair(bundle_dir: str) -> Callable[[str], object]:
    """What anybody would write without us: tokenizer, two arrays, one run."""
    bundle = read_bundle(bundle_dir)
    tokenizer = Tokenizer.from_buffer(bundle.files[TOKENIZER])
    tokenizer.no_padding()
    tokenizer.enable_truncation(bundle.manifest.max_tokens)
    options = session_options(PROFILES[ProfileName.BALANCED])
    session = onnxruntime.InferenceSession(bundle.files[ENCODER], options)

    def run(text: str) -> object:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        return session.run((OUTPUT,), {"input_ids": ids, "attention_mask": np.ones_like(ids)})

    return run


def alternate(
    first: Callable[[str], object], second: Callable[[str], object], inputs: list[str], block: int
) -> np.ndarray:
    """Milliseconds, shape (wall or CPU, bare or ours, N); who goes first changes every block."""
    for text in inputs[:50]:
        first(text), second(text)
    found = np.empty((2, 2, len(inputs)))
    for begin in range(0, len(inputs), block):
        rows = range(begin, min(begin + block, len(inputs)))
        for which in (0, 1) if begin // block % 2 else (1, 0):
            for row in rows:
                cpu, wall = time.thread_time(), time.perf_counter()
                (first, second)[which](inputs[row])
                found[0, which, row] = (time.perf_counter() - wall) * 1000
                found[1, which, row] = (time.thread_time() - cpu) * 1000
    return found


def configs(bundle: str, state: str) -> dict[str, EdgeConfig]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = GatewayConfig(address=f"127.0.0.1:{server.getsockname()[1]}")
    return {
        "quiet": EdgeConfig(bundle=bundle, audit=AuditConfig(rate=0.02)),
        "busy": EdgeConfig(
            bundle=bundle,
            state_dir=state,
            gateway=nobody,
            mode="edge_only",
            audit=AuditConfig(rate=1.0),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a trained student's directory")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--full", action="store_true", help="ten times the rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    inputs = texts(args.rows * (10 if args.full else 1), args.seed)
    base, report = bare_pair(args.bundle), {}
    student = Student.load(read_bundle(args.bundle))
    runs: dict[str, Callable[[str], object]] = {"the student's own run": student.read}
    print("| | clock | bare p50 ms | ours p50 ms | ratio | bare p99 ms | ours p99 ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as state:
        clients = {n: EdgeClient.open(c) for n, c in configs(args.bundle, state).items()}
        runs |= {f"predict, {name}": client.predict for name, client in clients.items()}
        for (name, run), block in itertools.product(runs.items(), (BLOCK, 1)):
            label = f"{name}, {'in blocks' if block > 1 else 'text by text'}"
            found = alternate(base, run, inputs, block)
            for clock, both in zip(("wall", "CPU"), found, strict=True):
                report[f"{label}, {clock}"] = show(label, clock, both)
        for client in clients.values():
            client.close()
    if args.out:
        args.out.write_text(json.dumps(report, indent=2))


def show(name: str, clock: str, both: np.ndarray) -> dict[str, list[float]]:
    (b50, o50), (b99, o99) = np.percentile(both, 50, axis=1), np.percentile(both, 99, axis=1)
    print(
        f"| {name} | {clock} | {b50:.3f} | {o50:.3f} | {o50 / b50:.2f} "
        f"| {b99:.3f} | {o99:.3f} | {o99 / b99:.2f} |"
    )
    return {"p50": [b50, o50], "p99": [b99, o99]}


if __name__ == "__main__":
    main()
