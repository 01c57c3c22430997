"""What a night will cost, before it is run: minutes, megabytes, teacher calls.

The encoder's share is measured, not looked up: two steps of the real student on this machine, times
the steps the recipe asks for.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

import numpy as np

from understudy.distill_loop import harvest, schooling
from understudy.distill_loop.distil import Lesson, distil, plan_batches
from understudy.distill_loop.encoder import parameter_count
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.plan_store import keep_plan
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds, split
from understudy.distill_loop.student import StudentModel, encode
from understudy.distill_loop.workspace import Workspace

EXPORT_S = 10.0
PROBE_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPlan:
    """What a night will cost.

    Attributes:
        minutes: Wall time on this machine as busy as it is now.
        encoder_megabytes: Size of the encoder file.
        shipped_megabytes: What an edge must fetch, at most.
        teacher_calls: Answers asked of the teacher, at most.
        steps: Steps of the optimiser.
        train: Training rows.
        calibration: Calibration rows.
        certificate: Rows that may certify.
        classes: Classes of the student.
        warm: True if the encoder starts from the champion's.
    """

    minutes: float
    encoder_megabytes: float
    shipped_megabytes: float
    teacher_calls: int
    steps: int
    train: int
    calibration: int
    certificate: int
    classes: int
    warm: bool


def plan_night(recipe: Recipe, workspace: Workspace, sources: Sources) -> NightPlan:
    """Plans the night that `run_night` would run; keeps the plan beside the night, nothing else.

    Raises:
        DataError: If there is nothing to learn from.
    """
    night = Night(recipe, workspace, sources)
    rows = harvest.collect(night)
    folds = split(rows, recipe.split)
    model = schooling.build(night, folds)
    lengths = [len(row.text.split()) + 2 for row in folds.train] * (1 + recipe.distil.augment)
    steps = len(plan_batches(lengths, recipe.distil, recipe.seed))
    megabytes = _megabytes(model, recipe)
    plan = NightPlan(
        minutes=_minutes(night, model, folds, steps),
        encoder_megabytes=megabytes,
        shipped_megabytes=megabytes + len(model.tokenizer) / 1e6 + recipe.head.max_bytes / 1e6,
        teacher_calls=_calls(recipe, rows),
        steps=steps,
        train=len(folds.train),
        calibration=len(folds.calibration),
        certificate=len(folds.certificate),
        classes=len(night.labels(folds)),
        warm=bool(night.champion_id) and night.checkpoint(night.champion_id).is_dir(),
    )
    keep_plan(workspace, night.champion_id, asdict(plan))
    return plan


def _minutes(night: Night, model: StudentModel, folds: Folds, steps: int) -> float:
    """Training at the measured pace, sentence vectors at the measured pace, and the export."""
    texts = [row.text for row in folds.train]
    sample = (texts * (1 + 64 // max(len(texts), 1)))[:64]
    start = time.perf_counter()
    vectors = encode(night.base_model, sample)
    one_vector = (time.perf_counter() - start) / len(sample)
    one_step = _one_step(night.recipe, model, sample, vectors) if steps else 0.0
    fresh = len(texts) * (1 + night.recipe.distil.augment)
    return (steps * one_step + fresh * one_vector + EXPORT_S) / 60.0


def _one_step(recipe: Recipe, model: StudentModel, texts: list[str], vectors: np.ndarray) -> float:
    index = np.arange(len(texts), dtype=np.int64) % 2
    lesson = Lesson(
        texts=texts,
        vectors=vectors,
        soft=np.zeros((len(texts), 2), np.float32),
        labels=index,
        weights=np.ones(len(texts), np.float32),
    )
    head = fit_head(vectors, index, 2, recipe=replace(recipe.head, iterations=2))
    probe = replace(
        recipe.distil, epochs=1, min_steps=PROBE_STEPS, max_steps=PROBE_STEPS, augment=0
    )
    plain = replace(
        recipe, distil=probe, objective=replace(recipe.objective, hid=0.0, rel=0.0, rationale=0.0)
    )
    start = time.perf_counter()
    trained = distil(model, lesson, head, plain)
    return (time.perf_counter() - start) / max(trained.steps, 1)


def _megabytes(model: StudentModel, recipe: Recipe) -> float:
    """One byte a weight when quantised to INT8, four when not; 4-bit leaves the embedding alone."""
    weights = parameter_count(model.encoder)
    words = model.encoder.spec.vocabulary * model.encoder.spec.hidden
    match recipe.compress.use:
        case "none":
            return weights * 4 / 1e6
        case "int4":
            return (words * 4 + (weights - words) * 0.56) / 1e6
        case _:
            return weights * 1.03 / 1e6


def _calls(recipe: Recipe, rows: tuple[Example, ...]) -> int:
    missing = sum(row.teacher is None and not row.label for row in rows)
    return min(missing, recipe.data.teacher_budget) + 2 * recipe.data.generate
