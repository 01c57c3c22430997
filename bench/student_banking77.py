"""How much of its teacher does a student keep, how small is it, and how fast?

Teacher: frozen all-MiniLM-L6-v2 with a linear head on the full training set. Student: the night's
own first student from the same rows with the teacher's soft labels. Speed is one text at a time on
one thread: the teacher's float32 graph and the student's INT8 graph take turns in one ONNX Runtime.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from tokenizers import Tokenizer

from understudy.distill_loop.base import find_base
from understudy.distill_loop.export import INPUTS, OUTPUT, export_onnx, open_graph
from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.recipe import HeadRecipe, load_recipe
from understudy.distill_loop.rows import NONE_LABEL, Example
from understudy.distill_loop.run import first_student
from understudy.distill_loop.statistics import area_under_curve
from understudy.distill_loop.student import StudentModel, encode, whole_base
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import Head, read_bundle
from understudy.edge.student import Student
from understudy.types.records import TeacherLabel

DATA = Path(os.environ.get("UNDERSTUDY_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
Rows = list[tuple[str, str]]
Floats = NDArray[Any]
Runs = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Foreign:
    """Texts outside every class: those that may be learned from, and those that are asked about."""

    taught: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()


def banking77() -> tuple[Rows, Rows, Foreign]:
    def read(name: str) -> Rows:
        with (DATA / "banking77" / name).open(encoding="utf-8") as file:
            return [(row["text"], row["category"]) for row in csv.DictReader(file)]

    return read("train.csv"), read("test.csv"), Foreign()


def clinc150() -> tuple[Rows, Rows, Foreign]:
    with gzip.open(DATA / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as file:
        data = json.load(file)
    pairs = {part: [(t, y) for t, y in data[part]] for part in data}
    taught = tuple(text for text, _ in (*pairs["oos_train"], *pairs["oos_val"]))
    return pairs["train"], pairs["test"], Foreign(taught, tuple(t for t, _ in pairs["oos_test"]))


def teacher_labels(head: Head, vectors: Floats, names: list[str]) -> list[TeacherLabel]:
    log_p = log_softmax(apply_head(head, vectors)[0].astype(np.float64), axis=1)
    found = []
    for row in log_p:
        best = np.argsort(-row)[:10]
        kept = row[best] - np.log(np.exp(row[best]).sum())
        found.append(
            TeacherLabel(
                "minilm-linear",
                "bench",
                tuple(names[i] for i in best),
                tuple(float(min(p, 0.0)) for p in kept),
            )
        )
    return found


class FloatGraph:
    """The base as a user would run it: float32, tokenizer and session opened once."""

    def __init__(self, base: StudentModel) -> None:
        self._session = open_graph(export_onnx(base))
        self._tokenizer = Tokenizer.from_str(base.tokenizer)

    def run(self, texts: list[str]) -> Floats:
        ids = np.array([self._tokenizer.encode(texts[0]).ids])
        inputs = dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True))
        return self._session.run([OUTPUT], inputs)[0]


def race(teacher: Runs, student: Runs, texts: list[str]) -> list[float]:
    """Median milliseconds of one text: teacher's graph, student's graph; they take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for text in texts:
        for run, kept in zip((teacher, student), times, strict=True):
            start = time.perf_counter()
            run([text])
            kept.append((time.perf_counter() - start) * 1e3)
    return [float(np.median(t[5:])) for t in times]


def caught_at(foreign: Floats, own: Floats, false_share: float = 0.05) -> float:
    """Share of foreign rows below the score that `false_share` of the own rows fall below."""
    return float((foreign < np.quantile(own, false_share)).mean())


def told_apart(student: Student, head: Head, own: list[str], out: list[str]) -> dict[str, float]:
    """How foreign texts are told from the classes' own, by what the product compares."""
    known, strange = student.run(own), student.run(out)
    cosines = nearest(head, strange.vectors), nearest(head, known.vectors)
    return {
        "foreign caught at 5 % false": caught_at(strange.similarity, known.similarity),
        "foreign area under curve": area_under_curve(strange.similarity, known.similarity),
        "caught by nearest prototype": caught_at(*cosines),
    }


def nearest(head: Head, vectors: Floats) -> Floats:
    """Highest cosine to a prototype: what tells foreign rows where none was learned from."""
    return (vectors @ head.prototypes.T).max(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("banking77", "clinc150"), default="banking77")
    parser.add_argument("--full", action="store_true", help="the whole training set")
    parser.add_argument("--recipe", default="intents-default", help="a preset, or a recipe file")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rng", type=int, default=17)
    parser.add_argument("--workspace", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    train, test, foreign = banking77() if options.data == "banking77" else clinc150()
    if not options.full:
        keep = np.random.default_rng(options.rng).permutation(len(train))[:1500]
        train = [train[i] for i in keep]
    report = measure(train, test, foreign, options)
    print("| what | value |\n|---|---|")
    for name, value in report.items():
        print(f"| {name} | {value if isinstance(value, str) else round(value, 4)} |")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


def measure(
    train: Rows, test: Rows, foreign: Foreign, options: argparse.Namespace
) -> dict[str, Any]:
    names = sorted({label for _, label in train})
    place = {name: i for i, name in enumerate(names)}
    truth = np.array([place[label] for _, label in test])
    texts, test_texts = ([text for text, _ in rows] for rows in (train, test))
    base = whole_base(find_base("minilm"), max_tokens=64)
    vectors = encode(base, texts)
    plain = HeadRecipe(mix=0.0, max_bytes=2_000_000)
    head = fit_head(vectors, np.array([place[y] for _, y in train]), len(names), recipe=plain)
    labels = teacher_labels(head, vectors, names)
    teacher_right = apply_head(head, encode(base, test_texts))[0].argmax(1) == truth

    recipe = load_recipe(options.recipe)
    epochs = options.epochs or recipe.distil.epochs
    recipe = replace(
        recipe,
        seed=options.rng,
        data=replace(recipe.data, max_drop=0.0),
        distil=replace(recipe.distil, epochs=epochs, threads=options.threads, max_steps=10_000),
    )
    rows = [
        Example(id=f"r{i}", text=text, label=label, teacher=said)
        for i, ((text, label), said) in enumerate(zip(train, labels, strict=True))
    ]
    none = TeacherLabel("minilm-linear", "bench", (NONE_LABEL,), (0.0,))
    rows += [Example(id=f"o{i}", text=t, teacher=none) for i, t in enumerate(foreign.taught)]
    folder = options.workspace or Path(tempfile.mkdtemp(prefix="bench-student-"))
    start = time.perf_counter()
    result = first_student(recipe, Workspace(folder), rows)
    minutes = (time.perf_counter() - start) / 60
    student = Student.load(bundle := read_bundle(result.directory))
    order = np.array([place[name] for name in bundle.manifest.labels])
    student_right = order[student.run(test_texts).logits.argmax(1)] == truth

    teacher_ms, student_ms = race(FloatGraph(base).run, student.run, test_texts[:300])
    report = {
        "data": options.data,
        "training rows": len(train),
        "recipe": options.recipe,
        "epochs": epochs,
        "teacher accuracy": float(teacher_right.mean()),
        "student accuracy": float(student_right.mean()),
        "kept": float(student_right.mean() / teacher_right.mean()),
        "encoder MB": len(bundle.files["encoder.onnx"]) / 1e6,
        "head kB": len(bundle.files["head.npz"]) / 1e3,
        "teacher float32 ms": teacher_ms,
        "student INT8 ms": student_ms,
        "times faster": teacher_ms / student_ms,
        "minutes": minutes,
    }
    if foreign.tested:
        report |= told_apart(student, bundle.head, test_texts, list(foreign.tested))
    return {k: v for k, v in report.items() if not (isinstance(v, float) and math.isnan(v))}


if __name__ == "__main__":
    main()
