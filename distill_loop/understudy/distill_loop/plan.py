"""What a night will cost, before it is run: minutes, megabytes, teacher calls.

The encoder's share is measured, not looked up: some steps of the real student on this machine,
times the steps the recipe asks for.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

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

REST_S = 10.0
"""Export, compression, gate and writing, which hardly depend on the rows."""
A_ROW_S = 0.0015
"""Curation and head, a row."""
PROBE_STEPS, PROBE_ROWS = 16, 1024


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
    """Training at the measured pace, vectors of texts never seen before likewise, and the rest."""
    texts = [row.text for row in folds.train]
    rest = REST_S + A_ROW_S * len(texts)
    if not steps:
        return rest / 60.0
    # Only a lesson of the encoder asks for the base's vectors, and only for texts that are new.
    fresh = night.cache.missing(texts) + len(texts) * night.recipe.distil.augment
    vectors = fresh * _one_vector(night, texts) if fresh else 0.0
    return (steps * _one_step(night.recipe, model, texts) + vectors + rest) / 60.0


def _one_vector(night: Night, texts: list[str], most: int = 64) -> float:
    start = time.perf_counter()
    encode(night.base_model, texts[:most])
    return (time.perf_counter() - start) / len(texts[:most])


def _one_step(recipe: Recipe, model: StudentModel, texts: list[str]) -> float:
    """Mean seconds of a step, by the clock between two of them, over batches as a night has them.

    Every few steps the gradients of all terms are weighed, which takes several times as long; over
    a whole night that happens four times, so here those steps do not count.
    """
    some = texts[:: max(len(texts) // PROBE_ROWS, 1)]
    index = np.arange(len(some), dtype=np.int64) % 2
    generator = np.random.default_rng(recipe.seed)
    vectors = generator.normal(size=(len(some), model.encoder.spec.vector)).astype(np.float32)
    lesson = Lesson(
        texts=some,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        soft=np.zeros((len(some), 2), np.float32),
        labels=index,
        weights=np.ones(len(some), np.float32),
    )
    head = fit_head(lesson.vectors, index, 2, recipe=replace(recipe.head, iterations=2))
    probe = replace(
        recipe.distil, epochs=1, min_steps=PROBE_STEPS, max_steps=PROBE_STEPS, augment=0
    )
    plain = replace(
        recipe, distil=probe, objective=replace(recipe.objective, hid=0.0, rel=0.0, rationale=0.0)
    )
    ends: list[float] = []
    distil(model, lesson, head, plain, progress=lambda *_: ends.append(time.perf_counter()))
    weighs = PROBE_STEPS // 4
    took = [b - a for step, (a, b) in enumerate(pairwise(ends), start=1) if step % weighs]
    return float(np.mean(took))


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
