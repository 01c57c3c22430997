"""`understudy distill`: the night, what it will cost, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.output import progress, show_fields, show_table

if TYPE_CHECKING:
    from understudy.distill_loop.workspace import Workspace

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
    history: Annotated[
        Path | None, typer.Option(help="Old texts without labels, for the first student's encoder.")
    ] = None,
    channel: Annotated[str, typer.Option(help="Channel to offer the student to.")] = "stable",
    ship: Annotated[bool, typer.Option(help="Sign and offer what passes the gate.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Runs one night; safe to repeat, resumes after a crash, refuses to ship a worse student."""
    from understudy.cli.night_line import night_summary
    from understudy.cli.nightly import places_beside, run_nightly

    places = places_beside(
        recipe,
        cloud=cloud,
        workspace=workspace,
        keys=keys,
        seed=seed,
        channel=channel,
        ship=ship,
        history=history,
    )
    name = date or datetime.now(UTC).strftime("%Y-%m-%d")
    with progress(f"night {name}", STAGES) as bar:

        def tell(stage: str, done: float) -> None:
            bar.say(f"night {name}: {stage}")
            bar.advance(1 if done >= 1.0 else 0)

        result = run_nightly(places, name, tell)
    show_fields(night_summary(result), as_json=as_json)


@app.command(epilog="Example: understudy distill plan -c recipe.yaml --json")
def plan(
    recipe: Recipe = "intents-default",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
    seed: Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Tells minutes, megabytes and teacher calls of the next night; ships and changes nothing."""
    from understudy.cli.nightly import places_beside, plan_nightly

    places = places_beside(
        recipe, cloud=cloud, workspace=workspace, keys=None, seed=seed, channel="stable", ship=False
    )
    show_fields(plan_nightly(places), as_json=as_json)


@app.command(epilog="Example: understudy distill report 2026-11-23 -c recipe.yaml -o night.html")
def report(
    date: Annotated[str, typer.Argument(help="Name of the night.")],
    recipe: Recipe = "intents-default",
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path(
        "night.html"
    ),
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
) -> None:
    """Writes a page about a night that has ended: checks, figures, what changed."""
    from understudy.distill_loop.report import write_report

    typer.echo(f"written: {write_report(_workspace(recipe, cloud, workspace), date, out)}")


@app.command(epilog="Example: understudy distill proposals -c recipe.yaml")
def proposals(
    recipe: Recipe = "intents-default",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Lists clusters of unknown requests that may be new classes."""
    from understudy.distill_loop.discover import kept_proposals

    waiting = kept_proposals(_workspace(recipe, cloud, workspace))
    rows = [(p.id, len(p.row_ids), " ".join(p.words), " | ".join(p.examples[:3])) for p in waiting]
    show_table(("proposal", "rows", "words", "examples"), rows, as_json=as_json)


@app.command(epilog="Example: understudy distill approve 4f1c product_recall -c recipe.yaml")
def approve(
    proposal: Annotated[str, typer.Argument(help="Id of the proposal.")],
    label: Annotated[str, typer.Argument(help="Name of the new class.")],
    recipe: Recipe = "intents-default",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
) -> None:
    """Makes a proposal a class; the next refresh or night teaches it."""
    from understudy.distill_loop.discover import approve as approve_proposal

    rows = approve_proposal(_workspace(recipe, cloud, workspace), proposal, label)
    typer.echo(f"{label} begins with {rows} rows")


def _workspace(recipe: str, cloud: Path | None, workspace: Path | None) -> Workspace:
    from understudy.cli.nightly import places_beside
    from understudy.distill_loop.workspace import Workspace

    places = places_beside(
        recipe, cloud=cloud, workspace=workspace, keys=None, seed=None, channel="stable", ship=False
    )
    return Workspace(places.workspace)
