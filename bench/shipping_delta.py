"""How many bytes does a night cost a node, by which way of shipping?

    python bench/shipping_delta.py --base NIGHT1_BUNDLE --full NIGHT2_BUNDLE

Takes the folders of two bundles, parent and child. For every changed file: the whole file, the file
under zlib (what a compressing transport would reach), and our weight-aware delta, checked to be
byte-identical when applied. Without folders, a graph with simulated updates is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from understudy.cloud.releases.residual import HEADER, STEP, StepKind, make_delta
from understudy.edge.delta import apply_delta


@dataclass
class Row:
    """One file of a night; bytes and seconds."""

    name: str
    whole: int
    zlib9: int
    delta: int
    encode_s: float
    apply_s: float
    copied: int
    codes: int
    words: int
    literal: int
    codes_changed: float


def measure(name: str, base: bytes, full: bytes) -> Row:
    start = time.perf_counter()
    delta = make_delta(name, base, full).data
    encode_s = time.perf_counter() - start
    start = time.perf_counter()
    made = apply_delta(base, delta, hashlib.sha256(full).hexdigest(), len(full))
    apply_s = time.perf_counter() - start
    if made != full:
        raise SystemExit(f"{name}: the delta makes other bytes")
    kinds = dict.fromkeys(StepKind, 0)
    changed = touched = 0
    at, position = HEADER.size, 0
    while at < len(delta):
        kind, size, base_at, stored = STEP.unpack_from(delta, at)
        kinds[StepKind(kind)] += size
        if kind == StepKind.CODES:
            old: NDArray[np.uint8] = np.frombuffer(base, np.uint8, size, base_at)
            new: NDArray[np.uint8] = np.frombuffer(full, np.uint8, size, position)
            changed += int((old != new).sum())
            touched += size
        at, position = at + STEP.size + stored, position + size
    return Row(
        name=name,
        whole=len(full),
        zlib9=len(zlib.compress(full, 9)),
        delta=len(delta),
        encode_s=encode_s,
        apply_s=apply_s,
        copied=kinds[StepKind.COPY],
        codes=kinds[StepKind.CODES],
        words=kinds[StepKind.WORDS],
        literal=kinds[StepKind.LITERAL],
        codes_changed=changed / touched if touched else 0.0,
    )


def night(base: Path, full: Path) -> tuple[list[Row], int]:
    """The rows of what changed, and the size of the whole bundle."""
    rows = []
    total = 0
    for path in sorted(full.iterdir()):
        data = path.read_bytes()
        total += len(data)
        before = base / path.name
        if path.name == "manifest.json" or not before.is_file():
            rows.append(Row(path.name, len(data), len(zlib.compress(data, 9)), len(data),
                            0.0, 0.0, 0, 0, 0, len(data), 0.0))  # fmt: skip
        elif before.read_bytes() != data:
            rows.append(measure(path.name, before.read_bytes(), data))
    return rows, total


def simulated(seed: int) -> list[tuple[str, list[Row]]]:
    """INT8 matrices moved by noise of a share of their standard deviation."""
    chance = np.random.default_rng(seed)
    weights = [chance.normal(0, 0.04, (384, 1536)) for _ in range(6)]

    def graph(noise: float) -> bytes:
        model = ModelProto(ir_version=8)
        for number, weight in enumerate(weights):
            moved = weight + noise * 0.04 * chance.normal(size=weight.shape)
            scale = np.abs(weight).max(axis=0, keepdims=True) / 127
            codes = np.clip(np.rint(moved / scale), -127, 127).astype(np.int8)
            model.graph.initializer.append(
                TensorProto(
                    name=f"w{number}", data_type=3, dims=codes.shape, raw_data=codes.tobytes()
                )
            )
        return model.SerializeToString(deterministic=True)

    base = graph(0.0)
    return [
        (
            f"noise {noise:g} of the weights' deviation",
            [measure("encoder.onnx", base, graph(noise))],
        )
        for noise in (0.001, 0.01, 0.03, 0.1)
    ]


def show(title: str, rows: list[Row], total: int) -> None:
    print(f"\n**{title}**\n")
    print("| file | whole | zlib -9 | delta | delta/whole | codes changed | encode s | apply s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.whole:,} | {row.zlib9:,} | {row.delta:,} "
            f"| {row.delta / row.whole:.1%} | {row.codes_changed:.1%} | {row.encode_s:.2f} "
            f"| {row.apply_s:.2f} |"
        )
    shipped = sum(min(row.whole, row.delta if row.delta < 0.6 * row.whole else row.whole)
                  for row in rows)  # fmt: skip
    whole = sum(row.whole for row in rows)
    print(
        f"\nOn the wire: {shipped:,} bytes of a bundle of {total:,}; changed files whole: "
        f"{whole:,}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="the parent's folder")
    parser.add_argument("--full", type=Path, help="the child's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON goes here")
    args = parser.parse_args()
    if bool(args.base) != bool(args.full):
        sys.exit("name both --base and --full, or neither")
    if args.base:
        rows, total = night(args.base, args.full)
        results = [(f"{args.base.name[:8]} to {args.full.name[:8]}", rows)]
        show(*results[0], total)
    else:
        results = simulated(args.seed)
        for title, rows in results:
            show(title, rows, sum(row.whole for row in rows))
    if args.out:
        plain = {title: [asdict(row) for row in rows] for title, rows in results}
        args.out.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
