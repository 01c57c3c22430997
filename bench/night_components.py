"""What does each student, objective and way to compress cost and keep? One row each, BANKING77.

Every row trains the same number of steps on the same rows from the same teacher (frozen
all-MiniLM-L6-v2 with a linear head), is exported, compressed and run by the edge's own runner.
What is common (vectors, teacher) is made once and kept in the folder; so is every row, so that the
table grows row by row: `--row slim`, `--row moe` ..., then `--race` for latencies side by side.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from student_banking77 import FloatGraph, banking77, teacher_labels

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.base import find_base
from understudy.distill_loop.build import build_student
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.checkpoint import load_model, save_model
from understudy.distill_loop.export import check_parity, export_onnx
from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.lesson import VectorCache, by_torch
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.recipe import HeadRecipe, Recipe, load_recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.schooling import _train as train
from understudy.distill_loop.schooling import shrink
from understudy.distill_loop.split import Folds
from understudy.distill_loop.static import StaticEncoder
from understudy.distill_loop.student import StudentModel, whole_base
from understudy.distill_loop.taught import Taught
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.contract import Contract

Changes = Mapping[str, Mapping[str, Any]]
SLIM: Changes = {}

ROWS: dict[str, Changes] = {
    # Students
    "slim": SLIM,
    "slim 0,2,5": {"student": {"keep_layers": (0, 2, 5)}},
    "slim 0,1": {"student": {"keep_layers": (0, 1)}},
    "slim 8192 pieces": {"student": {"vocabulary": 8192}},
    "pruned heads 6 ffn 768": {"student": {"use": "pruned", "heads": 6, "ffn": 768}},
    "pruned width 256": {"student": {"use": "pruned", "hidden": 256}},
    "shared": {"student": {"use": "shared", "options": {"depth": 3}}},
    "moe": {"student": {"use": "moe", "options": {"experts": 2}}},
    "mod": {"student": {"use": "mod", "options": {"capacity": 0.5}}},
    "early exit": {"student": {"use": "early_exit", "options": {"after": 1, "sure": 0.9}}},
    "early exit 0,2,5": {"student": {"use": "early_exit", "keep_layers": (0, 2, 5)}},
    "gradual": {
        "student": {
            "use": "gradual",
            "keep_layers": (0, 2, 5),
            "heads": 9,
            "ffn": 1024,
            "options": {"depth": 2, "rounds": 2},
        }
    },
    "lora": {"student": {"use": "lora"}},
    "prompt": {"student": {"use": "prompt"}},
    "static": {"student": {"use": "static"}, "distil": {"embedding_rate": 3e-3}},
    # Objectives
    "kd": {"objective": {"emb": 0.0, "rkd": 0.0, "ce": 0.0}},
    "ce": {"objective": {"emb": 0.0, "rkd": 0.0, "kd": 0.0}},
    "emb": {"objective": {"rkd": 0.0, "kd": 0.0, "ce": 0.0}},
    "emb kd": {"objective": {"rkd": 0.0, "ce": 0.0}},
    "hid": {"objective": {"hid": 0.1}},
    "rel": {"objective": {"rel": 0.1}, "student": {"vocabulary": 0}},
    "unsure": {"objective": {"unsure": 0.1}},
    "balance": {"objective": {"balance": True}},
    # Schedule
    "average": {"distil": {"average": 0.99}},
    "embeddings": {"distil": {"embedding_rate": 3e-5}},
    "augment": {"distil": {"augment": 1}},
    "mixup": {"objective": {"mixup": 0.5}},
    "rounded last fifth": {"distil": {"quantised": 0.2}},
    # Compression of the slim student
    "none": {"compress": {"use": "none"}},
    "int8 8 bits": {"compress": {"cpu": "vnni"}},
    "int8 static": {"compress": {"use": "int8_static"}},
    "int4": {"compress": {"use": "int4"}},
    "auto": {"compress": {"use": "auto"}},
}
QUICK = ("slim", "static")


@dataclass
class World:
    """What all rows share; made once, kept in the folder."""

    folder: Path
    rows: int
    steps: int
    seed: int = 17

    @cached_property
    def data(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        train_rows, test_rows, _ = banking77()
        if self.rows:
            keep = np.random.default_rng(self.seed).permutation(len(train_rows))[: self.rows]
            train_rows = [train_rows[i] for i in keep]
        return train_rows, test_rows

    @cached_property
    def names(self) -> list[str]:
        return sorted({label for _, label in self.data[0]})

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place[label] for _, label in self.data[1]])

    @cached_property
    def base(self) -> StudentModel:
        return whole_base(find_base("minilm"), max_tokens=64)

    @cached_property
    def clock(self) -> FloatGraph:
        """The teacher's encoder in float32, by which all rows are timed."""
        return FloatGraph(self.base)

    @cached_property
    def vectors(self) -> VectorCache:
        base = find_base("minilm")
        path = self.folder / f"vectors-{base.sha256[:16]}.npz"
        return VectorCache(path, by_torch(self.base))

    @cached_property
    def folds(self) -> Folds:
        texts = [text for text, _ in self.data[0]]
        place = {name: i for i, name in enumerate(self.names)}
        index = np.array([place[y] for _, y in self.data[0]])
        plain = HeadRecipe(mix=0.0, max_bytes=2_000_000)
        vectors = self.vectors.vectors(texts)
        head = fit_head(vectors, index, len(self.names), recipe=plain)
        tested = self.vectors.vectors([text for text, _ in self.data[1]])
        self.teacher = float((apply_head(head, tested)[0].argmax(1) == self.truth).mean())
        said = teacher_labels(head, vectors, self.names)
        rows = [
            Example(id=f"r{i}", text=text, label=label, teacher=answer)
            for i, ((text, label), answer) in enumerate(zip(self.data[0], said, strict=True))
        ]
        return Folds(train=tuple(rows), calibration=(), gate=())

    def recipe(self, changes: Changes) -> Recipe:
        plain = load_recipe("intents-default")
        plain = replace(
            plain,
            seed=self.seed,
            labels=tuple(self.names),
            distil=replace(
                plain.distil, epochs=1, min_steps=self.steps, max_steps=self.steps, threads=1
            ),
        )
        sections = {k: replace(getattr(plain, k), **dict(v)) for k, v in changes.items()}
        return replace(plain, **sections)


def measure(world: World, name: str) -> dict[str, Any]:
    """One row: the student trained, exported, compressed, run on the test rows."""
    changes, folds = ROWS[name], world.folds
    recipe = world.recipe(changes)
    night = Night(recipe, Workspace(world.folder), Sources())
    night.__dict__["cache"] = world.vectors
    model, figures = taught_model(
        world, night, {k: v for k, v in changes.items() if k != "compress"}
    )
    begun = time.process_time()
    graph = float_graph(world, model)
    blank = shrink(night, model, graph, folds)
    packed = time.process_time() - begun
    candidate, student = with_head(world, recipe, blank)
    texts = [text for text, _ in world.data[1]]
    right = student.run(texts).logits.argmax(1) == world.truth
    size = len(blank.encoder) + sum(map(len, (blank.extra or {}).values()))
    keep_bundle(world, name, candidate)
    base_ms, ms = race([world.clock.run, student.run], texts[:120])
    return {
        "accuracy": float(right.mean()),
        "teacher": world.teacher,
        "MB": size / 1e6,
        "ms": ms,
        "times faster": base_ms / ms,
        "cosine": (night.figures.get("parity") or {}).get("cosine"),
        "pack minutes": packed / 60,
        "rows": len(folds.train),
        **figures,
    }


def taught_model(
    world: World, night: Night, changes: Changes
) -> tuple[StudentModel, dict[str, Any]]:
    """The trained student of these changes and how it went; kept, as compression rows share it."""

    def fill(folder: Path) -> None:
        recipe = night.recipe
        begun = time.process_time()
        texts = [row.text for row in world.folds.train]
        start = build_student(recipe.student, night.base, texts)
        model = train(night, start, world.folds)
        spent = (time.process_time() - begun) / 60
        save_model(model, folder)
        kept = {
            "train minutes": spent,
            "steps": night.figures["steps"],
            "gradient share": night.figures["gradient_share"],
        }
        (folder / "figures.json").write_text(json.dumps(kept))

    inputs = {"changes": changes, "steps": world.steps, "rows": world.rows, "seed": world.seed}
    folder = Workspace(world.folder).stage("taught", inputs, fill)
    return load_model(folder), json.loads((folder / "figures.json").read_text())


def float_graph(world: World, model: StudentModel) -> bytes:
    if isinstance(model.encoder, StaticEncoder):
        return b""
    graph = export_onnx(model)
    check_parity(model, graph, [text for text, _ in world.data[1][:8]])
    return graph


def with_head(world: World, recipe: Recipe, blank: Candidate) -> tuple[Candidate, Student]:
    rows = world.folds.train
    vectors = parts.load(blank).run([row.text for row in rows]).vectors
    candidate = Taught(rows, vectors, blank.labels, recipe).fit(blank)
    return candidate, parts.load(candidate)


def keep_bundle(world: World, name: str, candidate: Candidate) -> None:
    folder = world.folder / "bundles" / name.replace(" ", "-").replace(",", "")
    parts.write(replace(candidate, certificate=parts.nothing_proved(Contract())), folder, golden=())


def race(runs: Sequence[Any], texts: Sequence[str]) -> list[float]:
    """Median milliseconds of one text by each; they take turns, text by text."""
    times: list[list[float]] = [[] for _ in runs]
    for text in [*texts[:3], *texts]:
        for run, kept in zip(runs, times, strict=True):
            start = time.perf_counter()
            run([text])
            kept.append((time.perf_counter() - start) * 1e3)
    return [float(np.median(kept[3:])) for kept in times]


def race_all(world: World, table: dict[str, Any]) -> None:
    """Latencies of all kept rows in one process, in turns; writes them into the table."""
    names = [name for name in table if "ms" in table[name]]
    folders = [world.folder / "bundles" / n.replace(" ", "-").replace(",", "") for n in names]
    students = [Student.load(read_bundle(folder)) for folder in folders]
    texts = [text for text, _ in world.data[1]][:150]
    times = race([world.clock.run, *(s.run for s in students)], texts)
    for name, ms in zip(names, times[1:], strict=True):
        table[name] |= {"ms": ms, "times faster": times[0] / ms, "base ms": times[0]}


def show(table: dict[str, Any]) -> None:
    print("| row | accuracy | MB | ms | times faster | train minutes | gradient share |")
    print("|---|---|---|---|---|---|---|")
    for name, row in table.items():
        share = ", ".join(f"{k} {v:.0%}" for k, v in row["gradient share"].items() if v >= 0.005)
        cells = f"{row['accuracy']:.2%} | {row['MB']:.2f} | {row['ms']:.2f}"
        rest = f"{row['times faster']:.1f} | {row['train minutes']:.1f} | {share}"
        print(f"| {name} | {cells} | {rest} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", nargs="*", default=None, help="rows to make; known: see --list")
    parser.add_argument("--full", action="store_true", help="all training rows, every row")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--race", action="store_true", help="latencies of kept rows, in turns")
    parser.add_argument("--steps", type=int, default=0, help="of the optimiser; 500 or 60")
    parser.add_argument("--rows", type=int, default=1500, help="training rows without --full")
    parser.add_argument("--folder", type=Path, default=None, help="where rows are kept")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-components-"))
    folder.mkdir(parents=True, exist_ok=True)
    world = World(
        folder, 0 if options.full else options.rows, options.steps or (500 if options.full else 60)
    )
    kept = folder / "table.json"
    table = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = options.row if options.row is not None else ([*ROWS] if options.full else [*QUICK])
    for name in [] if options.race else wanted:
        if name not in ROWS:
            parser.error(f"there is no row '{name}'; --list shows them")
        if name not in table:
            found = measure(world, name)
            # Others may have added rows since: read again before writing.
            table = json.loads(kept.read_text()) if kept.exists() else {}
            table[name] = found
            kept.write_text(json.dumps(table, indent=1))
    if options.race:
        race_all(world, table)
        kept.write_text(json.dumps(table, indent=1))
    show(table)


if __name__ == "__main__":
    main()
