"""The steps over the encoder: build, distil, export, compress. Each keeps what it made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.adapters import merge_adapters
from understudy.distill_loop.build import build_student
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.checkpoint import load_model, save_model
from understudy.distill_loop.compress import parity
from understudy.distill_loop.distil import Lesson, Trained, distil, looks_inside
from understudy.distill_loop.export import check_parity, export_onnx
from understudy.distill_loop.gradual import a_round, prune_to, shapes
from understudy.distill_loop.harvest import variants
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.inputs import Where
from understudy.distill_loop.lesson import make_lesson
from understudy.distill_loop.night import Night
from understudy.distill_loop.packing import pack
from understudy.distill_loop.recipe import HeadRecipe, Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds
from understudy.distill_loop.static import StaticEncoder
from understudy.distill_loop.student import StudentModel
from understudy.edge.bundle import Head, encode_embeddings
from understudy.edge.student import Student
from understudy.types.bundle import EMBEDDINGS
from understudy.types.errors import DataError

PARITY_TEXTS = 50
FIRST_HEAD = HeadRecipe(l2=1e-5, iterations=200, mix=0.0)
"""The head the encoder is trained under; the head that ships is fitted afterwards."""


def build(night: Night, folds: Folds) -> StudentModel:
    """The champion's encoder if it may start warm, else a new one."""
    with night.stage("build"):
        warm = night.checkpoint(night.champion_id)
        if night.champion_id and night.recipe.distil.warm_start and warm.is_dir():
            return load_model(warm)
        texts = [row.text for row in folds.train]
        return build_student(night.recipe.student, night.base, texts)


def teach(night: Night, model: StudentModel, folds: Folds) -> StudentModel:
    """The encoder after tonight's lesson; unchanged when the recipe asks for no epochs."""
    with night.stage("distil"):
        if not night.recipe.distil.epochs:
            return model
        recipe = night.recipe
        inputs = {
            "rows": rows_digest(folds.train),
            "labels": night.labels(folds),
            "recipe": [asdict(recipe.distil), asdict(recipe.objective)],
            # Workers that share a batch sum in another order: not bit for bit the same weights.
            "workers": recipe.where.workers if recipe.where.use is not Where.LOCAL else 0,
            "student": asdict(recipe.student),
            "data": asdict(recipe.data),
            "start": model_digest(model),
            "base": night.base.sha256,
            "seed": recipe.seed,
        }

        def fill(folder: Path) -> None:
            save_model(_train(night, model, folds), folder)

        return load_model(night.workspace.stage("distil", inputs, fill))


def _train(night: Night, model: StudentModel, folds: Folds) -> StudentModel:
    rows = (*folds.train, *variants(night, folds.train))
    labels = night.labels(folds)
    lesson = _lesson(night, rows, labels)
    known = lesson.labels >= 0
    if not known.any():
        raise DataError("no training row has a label that the student knows")
    head = fit_head(lesson.vectors[known], lesson.labels[known], len(labels), recipe=FIRST_HEAD)
    trained = _in_rounds(night, model, lesson, head)
    night.figures |= {
        "losses": trained.losses,
        "gradient_share": trained.gradient_share,
        "steps": trained.steps,
    }
    return merged(trained.model)


def merged(model: StudentModel) -> StudentModel:
    """The student that ships: adapters are part of the weights."""
    return replace(model, encoder=merge_adapters(model.encoder))


def _in_rounds(night: Night, model: StudentModel, lesson: Lesson, head: Head) -> Trained:
    """One lesson; for a student that is cut by and by, one after each cut, with a share each."""
    rounds = shapes(night.recipe.student, model.encoder.spec)
    if not rounds:
        return _learn(night, model, lesson, head, night.recipe)
    part = a_round(night.recipe, len(lesson.texts), len(rounds))
    for shape in rounds[:-1]:
        cut = prune_to(model, shape, lesson.texts)
        model = _learn(night, cut, lesson, head, part).model
    return _learn(night, prune_to(model, rounds[-1], lesson.texts), lesson, head, part)


def _learn(
    night: Night, model: StudentModel, lesson: Lesson, head: Head, recipe: Recipe
) -> Trained:
    """The training function, where the recipe says; Ray is imported only for its own sake."""

    def tell(done: int, of: int) -> None:
        night.tell("distil", done / of)

    if recipe.where.use is Where.LOCAL:
        return distil(model, lesson, head, recipe, base=night.base_model, progress=tell)
    from understudy.distill_loop.ray_train import distil_on_ray

    # Ninety megabytes that only terms which look inside the base are worth sending.
    base = night.base_model if looks_inside(recipe.objective) else None
    storage = night.workspace.path("ray", "here").parent
    return distil_on_ray(model, lesson, head, recipe, base=base, progress=tell, storage=storage)


def _lesson(night: Night, rows: Sequence[Example], labels: tuple[str, ...]) -> Lesson:
    """Arrays of the rows, with the champion's logits and rationales if a term wants them."""
    vectors = night.cache.vectors([row.text for row in rows])
    lesson = make_lesson(rows, labels, vectors, night.recipe.data)
    if night.recipe.objective.anchor > 0 and night.champion is not None:
        logits = Student.load(night.champion).run([row.text for row in rows]).logits
        lesson = replace(lesson, champion=_padded(logits, len(labels)))
    if night.recipe.objective.rationale > 0:
        reasons = [row.teacher.rationale if row.teacher else "" for row in rows]
        found = night.cache.vectors([reason or "-" for reason in reasons])
        known = np.array([[float(bool(reason))] for reason in reasons], np.float32)
        lesson = replace(lesson, rationales=found * known)
    return lesson


def _padded(logits: np.ndarray, classes: int) -> np.ndarray:
    """Champion's logits with new classes as good as impossible."""
    missing = np.full((len(logits), classes - logits.shape[1]), -20.0, np.float32)
    return np.concatenate([logits, missing], axis=1)


def export(night: Night, model: StudentModel, folds: Folds) -> bytes:
    """The encoder as one ONNX file, compared with torch on real texts; empty for a static one."""
    if model.encoder.spec.static:
        return b""
    with night.stage("export"):

        def fill(folder: Path) -> None:
            graph = export_onnx(model)
            check_parity(model, graph, [row.text for row in folds.train[:8]])
            (folder / "encoder.onnx").write_bytes(graph)

        inputs = {"model": model_digest(model)}
        return (night.workspace.stage("export", inputs, fill) / "encoder.onnx").read_bytes()


def shrink(night: Night, model: StudentModel, graph: bytes, folds: Folds) -> Candidate:
    """The graph that ships, in a candidate without a head; a static student ships its table."""
    if isinstance(model.encoder, StaticEncoder):
        table = model.encoder.table().numpy().astype(np.float16)
        blank = _blank(night, model, b"", folds)
        return replace(blank, runtime="static", extra={EMBEDDINGS: encode_embeddings(table)})
    recipe = night.recipe.compress
    with night.stage("compress"):
        texts = [row.text for row in folds.train][:200]
        fixed = recipe.use in {"int8_static", "auto"}
        static = rows_digest(folds.train) if fixed else ""
        inputs = {
            "graph": hashlib.sha256(graph).hexdigest(),
            "recipe": asdict(recipe),
            "rows": static,
        }

        def fill(folder: Path) -> None:
            small, tried = pack(graph, recipe, model.tokenizer, texts)
            (folder / "encoder.onnx").write_bytes(small)
            # Times differ from run to run: a night that resumes must find the choice that was made.
            (folder / "tried.json").write_text(json.dumps([asdict(one) for one in tried]), "utf-8")

        folder = night.workspace.stage("compress", inputs, fill)
        small = (folder / "encoder.onnx").read_bytes()
        night.figures["compression"] = json.loads((folder / "tried.json").read_text("utf-8"))
        compared = parity(graph, small, model.tokenizer, texts[:PARITY_TEXTS])
        night.figures["parity"] = asdict(compared)
    return _blank(night, model, small, folds)


def _blank(night: Night, model: StudentModel, graph: bytes, folds: Folds) -> Candidate:
    spec = model.encoder.spec
    return parts.blank(
        night.recipe.task,
        night.labels(folds),
        graph,
        model.tokenizer.encode(),
        max_tokens=spec.positions,
        vector=spec.vector,
        contract=night.recipe.contract,
    )


def rows_digest(rows: Sequence[Example]) -> str:
    """Names a set of rows: ids, texts and labels, in any order."""
    lines = sorted(f"{row.id}\t{row.text}\t{row.target}\t{row.teacher}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def model_digest(model: StudentModel) -> str:
    """Names an encoder: tokenizer and every weight."""
    digest = hashlib.sha256(model.tokenizer.encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
