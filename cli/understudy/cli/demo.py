"""The whole loop on this machine, with real processes.

A cloud process (teacher on Ray Serve, gateway with TLS, log, releases) and an edge process with an
embedded client are started; days of traffic go through the edge; after each day a night process
teaches the student and offers it, and the running client takes it over gRPC without a pause.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from understudy.cli.days import totals
from understudy.cli.demo_data import DemoData, load_demo_data
from understudy.cli.demo_setup import prepare, shadow_answers
from understudy.cli.demo_world import DemoWorld
from understudy.cli.folder import prepare_folder
from understudy.cli.output import progress
from understudy.cli.report import StreamReport
from understudy.cli.stream import Played, newest_lessons, play
from understudy.types.contract import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a person may choose.

    Attributes:
        out: Folder of everything the demo makes; emptied first if a demo made it.
        contract: What is promised.
        data: A labelled file of one's own; None for the support desk.
        days: Days of traffic.
        audit_rate: Share of requests whose coin falls; high, because a demo's days are short.
        recipe: Recipe of the nights.
        rng: Seed of every random choice.
    """

    out: Path
    contract: Contract
    data: Path | None = None
    days: int = 5
    audit_rate: float = 0.2
    recipe: str = "intents-demo"
    rng: int = 7


def run_demo(options: DemoOptions) -> StreamReport:
    """Plays the demo to its end; whatever happens, no process is left behind."""
    begun = time.monotonic()
    root = options.out.absolute()
    # Before the folder of an earlier demo is emptied: a file that cannot be used ends it here.
    data = load_demo_data(options.data, days=options.days, rng=options.rng)
    prepare_folder(root)
    with ExitStack() as stack:
        with progress("preparing", 3) as bar:
            places = prepare(root, data, options.contract, options.recipe, bar)
            bar.say("asking the teacher about every request, for the report only")
            said = shadow_answers(data, root)
            bar.advance()
        with progress("starting cloud and edge", 3) as bar:
            world = stack.enter_context(DemoWorld(places, said, options.audit_rate))
            world.start(bar)
        with progress("playing the days", sum(map(len, data.days))) as bar:
            played = play(data.days, world, bar, new_labels=data.new_labels)
        facts = (*_data_facts(data), *world.facts())
    return _report(options, played, facts, time.monotonic() - begun)


def _report(
    options: DemoOptions, played: Played, facts: tuple[tuple[str, str], ...], seconds: float
) -> StreamReport:
    shipped = sum(night.bytes_shipped for night in played.nights)
    return StreamReport(
        title="Understudy: a support desk learns on the edge",
        contract=options.contract,
        days=tuple(played.days),
        totals=totals(
            played.seen,
            night_calls=played.night_calls,
            bytes_shipped=shipped,
            seconds=seconds,
        ),
        nights=tuple(played.nights),
        lessons=newest_lessons(played.lessons),
        facts=(*facts, ("seconds in all", f"{seconds:.0f}")),
    )


def _data_facts(data: DemoData) -> tuple[tuple[str, str], ...]:
    intents = {row.label for row in data.teacher}
    late = sum(map(len, data.new_labels.values()))
    return (
        ("intents", f"{len(intents)}, of which {late} appear later than day 1"),
        ("the teacher was fitted on", f"{len(data.teacher)} labelled rows of its own"),
        ("the student started from", f"{len(data.seed)} labelled rows"),
        ("its encoder had read", f"{len(data.history)} old messages without labels"),
    )
