"""One demo world for all end-to-end tests: starting a cloud costs the better part of a minute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulators.loop import INTENTS, LATE, Loop
from understudy.cli.demo_data import split_demo, support_desk
from understudy.cli.demo_setup import prepare, shadow_answers
from understudy.cli.demo_world import DemoWorld
from understudy.cli.folder import prepare_folder
from understudy.cli.output import progress
from understudy.cli.rows import read_rows
from understudy.types.contract import Contract


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    root = tmp_path_factory.mktemp("loop") / "demo"
    prepare_folder(root)
    source = support_desk() / "utterances.jsonl"
    every = read_rows(source)
    rows = [row for row in every if row.label in {*INTENTS, LATE}]
    foreign = tuple(row for row in every if row.label not in {*INTENTS, LATE})[:60]
    data = split_demo(rows, {LATE: 2}, days=3, rng=3, source=str(source))
    contract = Contract(max_quality_loss=0.2, confidence=0.9)
    with progress("preparing", 3) as bar:
        places = prepare(root, data, contract, "head-only", bar)
    said = shadow_answers(data, root)
    with DemoWorld(places, said, audit_rate=0.5) as world:
        with progress("starting", 3) as bar:
            world.start(bar)
        yield Loop(world=world, data=data, places=places, foreign=foreign)
