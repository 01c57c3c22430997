"""One demo world for all end-to-end tests: starting a cloud costs the better part of a minute."""

from __future__ import annotations

import dataclasses
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

# What is tried here is the loop; the gate has tests of its own, and on so few rows it is chance.
RECIPE = """
name: wide-gate
student: {keep_layers: [0, 1, 2, 3, 4, 5]}
distil: {epochs: 0}
split: {train: 0.8, calibration: 0.1, gate: 0.1, unbiased_train: 0.4, unbiased_calibration: 0.2}
data: {max_drop: 0.0, max_class_growth: 1000.0}
gate: {min_rows: 1, margin: 1.0, require_gain: false, max_negative_flips: 1.0,
  coverage_slack: 1.0, max_ece: 1.0, slice_loss: 1.0, latency_ratio: 1000.0}
"""


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    root = tmp_path_factory.mktemp("loop") / "demo"
    prepare_folder(root)
    source = support_desk() / "utterances.jsonl"
    every = read_rows(source)
    rows = [row for row in every if row.label in {*INTENTS, LATE}]
    foreign = tuple(row for row in every if row.label not in {*INTENTS, LATE})[:60]
    data = split_demo(rows, {LATE: 2}, days=3, rng=3, source=str(source))
    # A late intent grows from day to day; here it begins with its large day.
    first, small, large = data.days
    data = dataclasses.replace(data, days=(first, large, small))
    recipe = root / "wide-gate.yaml"
    recipe.write_text(RECIPE)
    contract = Contract(max_quality_loss=0.2, confidence=0.9)
    with progress("preparing", 3) as bar:
        places = prepare(root, data, contract, str(recipe), bar)
    said = shadow_answers(data, root)
    with DemoWorld(places, said, audit_rate=0.5) as world:
        with progress("starting", 3) as bar:
            world.start(bar)
        yield Loop(world=world, data=data, places=places, foreign=foreign)
