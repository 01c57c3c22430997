"""`understudy distill`: the night, what it will cost, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.output import progress, show_fields

app = typer.Typer(no_args_is_help=True, help="Teach the student from what it had to ask.")
Recipe = Annotated[
    str, typer.Option("-c", "--recipe", help="Recipe file, or the name of a preset.")
]
Cloud = Annotated[
    Path | None,
    typer.Option(
        help="The cloud's YAML; beside the recipe if not named.", envvar="UNDERSTUDY_CLOUD"
    ),
]
WorkspaceFolder = Annotated[
    Path | None,
    typer.Option(help="Folder for the night's work.", envvar="UNDERSTUDY_WORKSPACE"),
]
Keys = Annotated[
    Path | None,
    typer.Option(help="The publisher's keys; beside the recipe.", envvar="UNDERSTUDY_KEYS"),
]
Seed = Annotated[
    Path | None,
    typer.Option(help="Labelled rows; `seed.jsonl` beside the recipe.", envvar="UNDERSTUDY_SEED"),
]
STAGES = 12


@app.command(epilog="Example: understudy distill run -c recipe.yaml --date 2026-11-23")
def run(
    recipe: Recipe = "intents-default",
    date: Annotated[str, typer.Option(help="Name of the night; today, UTC, if not named.")] = "",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
    keys: Keys = None,
    seed: Seed = None,
    channel: Annotated[str, typer.Option(help="Channel to offer the student to.")] = "stable",
    ship: Annotated[bool, typer.Option(help="Sign and offer what passes the gate.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Runs one night; safe to repeat, resumes after a crash, refuses to ship a worse student."""
    from understudy.cli.night_line import night_summary
    from understudy.cli.nightly import places_beside, run_nightly

    places = places_beside(
        recipe, cloud=cloud, workspace=workspace, keys=keys, seed=seed, channel=channel, ship=ship
    )
    name = date or datetime.now(UTC).strftime("%Y-%m-%d")
    with progress(f"night {name}", STAGES) as bar:

        def tell(stage: str, done: float) -> None:
            bar.say(f"night {name}: {stage}")
            bar.advance(1 if done >= 1.0 else 0)

        result = run_nightly(places, name, tell)
    show_fields(night_summary(result), as_json=as_json)
