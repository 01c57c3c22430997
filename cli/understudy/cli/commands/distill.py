"""`understudy distill`: the night, what it will cost, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.commands.distill_search import search
from understudy.cli.output import progress, show_fields, show_table

if TYPE_CHECKING:
    from understudy.cli.nightly import NightPlaces
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
STAGES = 13
SEARCH = "understudy distill search --seed rows.jsonl --workspace search --max-ms 1 -o best.yaml"
app.command(epilog=f"Example: {SEARCH}")(search)


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
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Do what the recipe's schedule asks for, or nothing.")
    ] = False,
    where: Annotated[
        str, typer.Option(help="Where the encoder learns: local or ray-train; else as the recipe.")
    ] = "",
    submit: Annotated[
        str, typer.Option(help="Run as a job of the Ray cluster at this dashboard address.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> int:
    """Runs one night; safe to repeat, resumes after a crash, refuses to ship a worse student."""
    if submit:
        from understudy.cli.ray_job import submit_night

        paths = {"--cloud": cloud, "--workspace": workspace, "--keys": keys}
        paths |= {"--seed": seed, "--history": history}
        options = {name: str(path) for name, path in paths.items() if path is not None}
        options |= {"--date": date, "--channel": channel, "--where": where}
        flags = {"--no-ship": not ship, "--if-due": if_due, "--json": as_json}
        return submit_night(submit, recipe, options, flags)
    from understudy.cli.nightly import places_beside

    places = places_beside(
        recipe,
        cloud=cloud,
        workspace=workspace,
        keys=keys,
        seed=seed,
        channel=channel,
        ship=ship,
        history=history,
        where=where,
    )
    now = datetime.now(UTC)
    if if_due:
        _run_if_due(places, now, as_json=as_json)
    else:
        _run_now(places, date or now.strftime("%Y-%m-%d"), as_json=as_json)
    return 0


def _run_now(places: NightPlaces, name: str, *, as_json: bool) -> None:
    from understudy.cli.night_line import night_summary
    from understudy.cli.nightly import keep_report, run_nightly

    with progress(f"night {name}", STAGES) as bar:

        def tell(stage: str, done: float) -> None:
            bar.say(f"night {name}: {stage}")
            bar.advance(1 if done >= 1.0 else 0)

        result = run_nightly(places, name, tell)
    keep_report(places, result.name)
    show_fields(night_summary(result), as_json=as_json)


def _run_if_due(places: NightPlaces, now: datetime, *, as_json: bool) -> None:
    """A night, a refresh or nothing, as time, volume and drift ask for."""
    from understudy.cli.nightly import due_name, due_nightly
    from understudy.distill_loop.triggers import Due

    call = due_nightly(places, now.timestamp())
    typer.echo(f"{call.due}: {call.why}", err=True)
    match call.due:
        case Due.NIGHT:
            _run_now(places, due_name(places, now), as_json=as_json)
        case Due.REFRESH:
            _refresh_now(places, as_json=as_json)
        case Due.NOTHING:
            show_fields(call, as_json=as_json)


@app.command(epilog="Example: understudy distill refresh -c recipe.yaml")
def refresh(
    recipe: Recipe = "intents-default",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
    keys: Keys = None,
    seed: Seed = None,
    channel: Annotated[str, typer.Option(help="Channel to offer the student to.")] = "stable",
    ship: Annotated[bool, typer.Option(help="Sign and offer what passes the gate.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Fits head, prototypes and calibration anew, in seconds; the encoder's bytes do not travel."""
    from understudy.cli.nightly import places_beside

    places = places_beside(
        recipe,
        cloud=cloud,
        workspace=workspace,
        keys=keys,
        seed=seed,
        channel=channel,
        ship=ship,
    )
    _refresh_now(places, as_json=as_json)


def _refresh_now(places: NightPlaces, *, as_json: bool) -> None:
    from understudy.cli.night_line import refresh_summary
    from understudy.cli.nightly import refresh_nightly

    with progress("refresh", 1) as bar:
        result = refresh_nightly(places)
        bar.advance()
    show_fields(refresh_summary(result), as_json=as_json)


@app.command(epilog="Example: understudy distill due -c recipe.yaml --json")
def due(
    recipe: Recipe = "intents-default",
    cloud: Cloud = None,
    workspace: WorkspaceFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Tells whether time, volume or drift ask for a night or a refresh now; changes nothing."""
    from understudy.cli.nightly import due_nightly, places_beside

    places = places_beside(recipe, cloud=cloud, workspace=workspace)
    show_fields(due_nightly(places, datetime.now(UTC).timestamp()), as_json=as_json)


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

    places = places_beside(recipe, cloud=cloud, workspace=workspace, seed=seed)
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

    places = places_beside(recipe, cloud=cloud, workspace=workspace)
    return Workspace(places.workspace)
