"""`understudy demo`: the whole loop on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = "Play the whole loop on this machine, with real processes, and write a report."


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all the demo makes.")] = Path(
        "understudy-demo"
    ),
    data: Annotated[
        Path | None, typer.Option(help="Your own rows, .jsonl or .csv with text and label.")
    ] = None,
    days: Annotated[int, typer.Option(min=2, max=14, help="Days of traffic.")] = 5,
    max_quality_loss: Annotated[float, typer.Option(help="The contract.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="How sure the contract must be.")] = 0.95,
    audit_rate: Annotated[float, typer.Option(help="Share of requests audited.")] = 0.2,
    recipe: Annotated[str, typer.Option(help="Recipe of the nights.")] = "intents-demo",
    rng: Annotated[int, typer.Option(help="Seed of every random choice.")] = 7,
) -> None:
    """Runs the demo and prints the table of the days."""
    from understudy.cli.demo import DemoOptions, run_demo
    from understudy.cli.report import show_days, write_report
    from understudy.types.contract import Contract

    options = DemoOptions(
        out=out,
        data=data,
        days=days,
        contract=Contract(max_quality_loss=max_quality_loss, confidence=confidence),
        audit_rate=audit_rate,
        recipe=recipe,
        rng=rng,
    )
    report = run_demo(options)
    show_days(report, write_report(report, out))
