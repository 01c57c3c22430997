"""Several tasks on one body: one encoder learns for all, each has a head and a bundle of its own.

A batch holds rows of one task, and the terms that need classes see the columns of that task alone;
sentence vectors know nothing of tasks. Files are addressed by content, so an edge that serves two
of the tasks fetches the encoder once, and a head-only refresh of one task leaves the other alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from understudy.distill_loop import harvest, proving, schooling
from understudy.distill_loop.build import build_student
from understudy.distill_loop.distil import Lesson, distil
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.lesson import make_lesson
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds
from understudy.distill_loop.student import StudentModel
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import Head
from understudy.types.errors import DataError


@dataclass(frozen=True, slots=True)
class Part:
    """One task of several: its night, and its rows by use."""

    night: Night
    folds: Folds

    @property
    def labels(self) -> tuple[str, ...]:
        """The task's classes."""
        return self.night.labels(self.folds)


def first_students(
    recipe: Recipe, workspace: Workspace, tasks: Mapping[str, Sequence[Example]]
) -> dict[str, Path]:
    """Makes the first student of every task on one encoder; nothing is certified yet.

    Args:
        recipe: What to do; its `task` is replaced by each task's name.
        workspace: Where to keep it; each task's later nights run in the folder of its name.
        tasks: Labelled rows by task.

    Returns:
        Folder of each task's bundle.

    Raises:
        DataError: If there are fewer than two tasks, or one has nothing to learn from.
    """
    if len(tasks) < 2:
        raise DataError("one task needs no company: name at least two, or use first_student")
    with workspace.lock():
        parts = [_part(recipe, workspace, name, rows) for name, rows in tasks.items()]
        lead = parts[0].night
        rows = tuple(row for part in parts for row in part.folds.train)
        together = Folds(train=rows, calibration=(), gate=())
        model = build_student(recipe.student, lead.base, [row.text for row in rows])
        model = _taught(parts, model, recipe) if recipe.distil.epochs else model
        graph = schooling.export(lead, model, together)
        small = schooling.shrink(lead, model, graph, together)
        found = {}
        for part in parts:
            blank = replace(small, task=part.night.recipe.task, labels=part.labels)
            blank = replace(blank, head=_empty(len(part.labels), model.encoder.spec.vector))
            proved = proving.prove(part.night, blank, part.folds)
            made = proving.write(part.night, proved, part.folds, model)
            found[part.night.recipe.task] = made
    return found


def _part(recipe: Recipe, workspace: Workspace, name: str, rows: Sequence[Example]) -> Part:
    own = Workspace(workspace.path(name, "here").parent)
    night = Night(replace(recipe, task=name), own, Sources(seed=tuple(rows)))
    return Part(night, harvest.deal(night, harvest.collect(night)))


def _taught(parts: Sequence[Part], model: StudentModel, recipe: Recipe) -> StudentModel:
    """The encoder after one lesson from all tasks."""
    lessons = [
        make_lesson(
            part.folds.train,
            part.labels,
            parts[0].night.cache.vectors([row.text for row in part.folds.train]),
            recipe.data,
        )
        for part in parts
    ]
    heads = [
        _first_head(lesson, len(part.labels)) for lesson, part in zip(lessons, parts, strict=True)
    ]
    joined = join_lessons(lessons)
    base = parts[0].night.base_model
    trained = distil(model, joined, _stacked(heads), recipe, base=base)
    for part in parts:
        part.night.figures["gradient_share"] = trained.gradient_share
    return schooling.merged(trained.model)


def join_lessons(lessons: Sequence[Lesson]) -> Lesson:
    """One lesson of several tasks: each has its own columns, each row knows its task."""
    widths = [lesson.soft.shape[1] for lesson in lessons]
    ends = np.cumsum(widths)
    spans = tuple((int(end - width), int(end)) for end, width in zip(ends, widths, strict=True))
    soft = np.zeros((sum(len(one.texts) for one in lessons), int(ends[-1])), np.float32)
    row = 0
    for lesson, (start, end) in zip(lessons, spans, strict=True):
        soft[row : row + len(lesson.texts), start:end] = lesson.soft
        row += len(lesson.texts)
    labels = [
        np.where(lesson.labels >= 0, lesson.labels + start, start - 1)
        for lesson, (start, _) in zip(lessons, spans, strict=True)
    ]
    return Lesson(
        texts=[text for lesson in lessons for text in lesson.texts],
        vectors=np.concatenate([lesson.vectors for lesson in lessons]),
        soft=soft,
        labels=np.concatenate(labels),
        weights=np.concatenate([lesson.weights for lesson in lessons]),
        tasks=np.repeat(np.arange(len(lessons)), [len(one.texts) for one in lessons]),
        spans=spans,
    )


def _first_head(lesson: Lesson, classes: int) -> Head:
    known = lesson.labels >= 0
    if not known.any():
        raise DataError("a task has no training row with a label that it knows")
    vectors, labels = lesson.vectors[known], lesson.labels[known]
    return fit_head(vectors, labels, classes, recipe=schooling.FIRST_HEAD)


def _stacked(heads: Sequence[Head]) -> Head:
    """All heads as one; only weights and biases count in training."""
    size = heads[0].weight.shape[1]
    return Head(
        np.concatenate([head.weight for head in heads]),
        np.concatenate([head.bias for head in heads]),
        np.zeros((0, size), np.float32),
        np.zeros(0, np.int64),
    )


def _empty(classes: int, size: int) -> Head:
    return Head(
        np.zeros((classes, size), np.float32),
        np.zeros(classes, np.float32),
        np.zeros((0, size), np.float32),
        np.zeros(0, np.int64),
    )
