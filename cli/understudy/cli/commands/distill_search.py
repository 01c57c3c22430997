"""`understudy distill search`: the best student within a time a text, and its recipe."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.output import progress, show_table

if TYPE_CHECKING:
    from understudy.distill_loop.search import Proposal


def search(
    seed: Annotated[Path, typer.Option(help="Labelled rows; every fifth judges.")],
    workspace: Annotated[Path, typer.Option(help="Folder for the search; goes on where it was.")],
    max_ms: Annotated[float, typer.Option(help="Median time of one text here, in milliseconds.")],
    recipe: Annotated[
        str, typer.Option("-c", "--recipe", help="Everything but the shape: a file or preset.")
    ] = "intents-default",
    trials: Annotated[int, typer.Option(help="Shapes to try, earlier calls included.")] = 20,
    minutes: Annotated[float, typer.Option(help="Time to spend now.")] = 60.0,
    steps: Annotated[int, typer.Option(help="Steps each shape learns for.")] = 300,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the best as a recipe.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Searches the shape of the student: best accuracy within a measured time; resumes."""
    from understudy.cli.night_inputs import seed_examples
    from understudy.distill_loop.recipe import load_recipe
    from understudy.distill_loop.search import Limits, search
    from understudy.distill_loop.workspace import Workspace
    from understudy.files import write_atomic

    loaded = load_recipe(recipe)
    limits = Limits(max_ms=max_ms, trials=trials, minutes=minutes, steps=steps)
    with progress("search", trials) as bar:
        found = search(
            loaded, Workspace(workspace), seed_examples(seed), limits, tell=lambda _: bar.advance()
        )
    show_table(
        ("layers", "heads", "ffn", "pieces", "accuracy", "ms", "MB"),
        [_row(one) for one in found],
        as_json=as_json,
    )
    if out is not None and found and not math.isnan(found[0].accuracy):
        write_atomic(out, _as_recipe(loaded.name, found[0]).encode(), mode=0o644)


def _row(found: Proposal) -> tuple[object, ...]:
    student = found.student
    accuracy = "too slow" if math.isnan(found.accuracy) else round(found.accuracy, 4)
    layers = ",".join(map(str, student.keep_layers))
    figures = accuracy, round(found.ms, 3), round(found.megabytes, 2)
    return layers, student.heads or "all", student.ffn or "all", student.vocabulary, *figures


def _as_recipe(name: str, found: Proposal) -> str:
    import yaml

    section = {key: value for key, value in asdict(found.student).items() if value not in ({}, 0)}
    section["keep_layers"] = list(found.student.keep_layers)
    figures = f"accuracy {found.accuracy:.4f}, {found.ms:.3f} ms, {found.megabytes:.2f} MB"
    return f"# Found by a search: {figures}.\n" + yaml.safe_dump(
        {"name": f"{name}-found", "student": section}, sort_keys=False
    )
