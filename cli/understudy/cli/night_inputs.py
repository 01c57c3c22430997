"""What a night from the command line reads: the files its recipe names, the log, the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.rows import Row, read_rows, require_labels
from understudy.types.errors import DataError

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig
    from understudy.cloud.log import EscalationLog
    from understudy.cloud.teacher import TeacherEngine
    from understudy.distill_loop.night import Sources
    from understudy.distill_loop.recipe import Recipe
    from understudy.distill_loop.rows import Example
    from understudy.distill_loop.teacher import NightTeacher


def read_sources(recipe: Recipe, folder: Path) -> Sources:
    """The files that a recipe's `sources` section names, read.

    Args:
        recipe: The recipe.
        folder: Folder that its paths are relative to.

    Raises:
        DataError: If a file is missing, or a row that must have a label has none.
    """
    from understudy.distill_loop.night import Sources

    named = recipe.sources
    return Sources(
        files=tuple(row for name in named.files for row in _labelled(folder / name)),
        gold=_labelled(folder / named.gold) if named.gold else (),
        pinned=_labelled(folder / named.pinned) if named.pinned else (),
        foreign=_texts(folder / named.foreign) if named.foreign else (),
        unlabelled=tuple(text for name in named.unlabelled for text in _texts(folder / name)),
    )


def seed_examples(path: Path | None) -> tuple[Example, ...]:
    """Labelled rows of a file as the night wants them.

    Raises:
        DataError: If the file cannot teach.
    """
    if path is None:
        return ()
    rows = read_rows(path)
    require_labels(path, rows)
    return as_examples(rows)


def as_examples(rows: tuple[Row, ...]) -> tuple[Example, ...]:
    """Rows labelled by a person."""
    from understudy.distill_loop.rows import Example, Origin

    return tuple(
        Example(id=f"seed-{row.id}", text=row.text, label=row.recorded, origin=Origin.SEED)
        for row in rows
    )


def _labelled(path: Path) -> tuple[Example, ...]:
    from understudy.distill_loop.rows import Example, Origin

    rows = read_rows(path)
    for place, row in enumerate(rows, start=1):
        if not row.label:
            raise DataError(f"{path}: row {place} has no `label`; a person's label is needed here")
    return tuple(
        Example(id=f"{path.stem}-{row.id}", text=row.text, label=row.label, origin=Origin.FILE)
        for row in rows
    )


def _texts(path: Path) -> tuple[str, ...]:
    return tuple(row.text for row in read_rows(path))


@contextmanager
def opened_log(cloud: CloudConfig) -> Iterator[EscalationLog]:
    """The escalation log, closed afterwards."""
    from understudy.cloud.parts import open_log

    log = open_log(cloud)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def night_teacher(recipe: Recipe, cloud: CloudConfig) -> Iterator[NightTeacher | None]:
    """The teacher, if the recipe allows the night any answer of its own; else None."""
    if not (recipe.data.teacher_budget or recipe.data.generate):
        yield None
        return
    from understudy.distill_loop.teacher import EngineTeacher

    with EngineTeacher(_engine(cloud)) as teacher:
        yield teacher


def _engine(cloud: CloudConfig) -> TeacherEngine:
    """The teacher of the configuration; one on Ray Serve is joined, never deployed or stopped."""
    from understudy.cloud.parts import open_teacher

    if cloud.serve is None:
        return open_teacher(cloud)
    ray = replace(cloud.serve.ray, address=cloud.serve.ray.address or "auto")
    return open_teacher(replace(cloud, serve=replace(cloud.serve, deploy=False, ray=ray)))
