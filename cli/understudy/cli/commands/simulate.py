"""`understudy simulate`: the loop over one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = "Play the loop over your own rows, in this process, and write report.json and report.html."


def simulate(
    seed: Annotated[Path, typer.Option(help="Labelled rows the student starts from.")],
    stream: Annotated[Path, typer.Option(help="The traffic, in order of `ts` or of the file.")],
    out: Annotated[Path, typer.Option(help="Folder for the report and all else.")],
    test: Annotated[Path | None, typer.Option(help="Held-out labelled rows.")] = None,
    teacher: Annotated[
        str, typer.Option(help="replay, transformers:DIR, vllm:MODEL or gateway:HOST:PORT.")
    ] = "replay",
    max_quality_loss: Annotated[float, typer.Option(help="Largest risk accepted.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="How sure the contract must be.")] = 0.95,
    audit_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=1.0,
            help="Share of requests audited; 0.05, or a fortieth of the budget, when left out.",
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Largest share of teacher calls.")
    ] = 1.0,
    early_lead: Annotated[
        float,
        typer.Option(min=0.0, max=0.99, help="How much more of the budget is spent at first."),
    ] = 0.9,
    days: Annotated[int, typer.Option(min=1, help="Parts the stream is cut into.")] = 5,
    recipe: Annotated[
        str,
        typer.Option(help="Recipe file or preset; intents-default, or stream under a budget."),
    ] = "",
    rng: Annotated[int, typer.Option(help="Seed of the nights.")] = 17,
    refresh_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Head-only refresh after so many new answers, 0 for nights only; by the recipe.",
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Play the stream in a random order, that of --rng.")
    ] = False,
    node: Annotated[
        Path | None, typer.Option(help="Folder of an enrolled node, for gateway:HOST:PORT.")
    ] = None,
) -> None:
    """Runs the simulation and prints the table of the days."""
    from understudy.cli.report import show_days, write_report
    from understudy.cli.simulator import simulate as run
    from understudy.cli.simulator_setup import SimulateOptions
    from understudy.types.contract import Contract

    options = SimulateOptions(
        seed=seed,
        stream=stream,
        test=test,
        out=out,
        teacher=teacher,
        contract=Contract(max_quality_loss=max_quality_loss, confidence=confidence),
        audit_rate=audit_rate,
        budget=budget,
        early_lead=early_lead,
        days=days,
        recipe=recipe,
        rng=rng,
        node=node,
        refresh_every=refresh_every,
        shuffle=shuffle,
    )
    report = run(options)
    show_days(report, write_report(report, out))
