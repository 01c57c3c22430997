"""How a graph becomes small: what is better in every respect wins, and everything is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulators.night_world import day_zero, utterances
from understudy.distill_loop.packing import WAYS, Tried, pack, pick
from understudy.distill_loop.recipe import CompressRecipe
from understudy.types.errors import ConfigError

TEXTS = [text for text, _ in utterances(24, 5)]
USUAL = Tried(use="int8_dynamic", size=100, ms=1.0, cosine=0.99, worst_cosine=0.98)
BETTER = replace(USUAL, use="int8_static", size=100, ms=0.9, cosine=0.989)


def test_the_usual_way_stays_unless_another_is_better_in_every_respect() -> None:
    assert pick([USUAL, BETTER]) is BETTER
    for worse in (
        replace(BETTER, size=101),
        replace(BETTER, ms=0.98),
        replace(BETTER, cosine=0.987),
    ):
        assert pick([USUAL, worse]) is USUAL


def test_a_third_way_is_held_against_the_second_once_that_has_won() -> None:
    third = replace(BETTER, use="int4", ms=0.95)

    assert pick([USUAL, BETTER, third]) is BETTER
    assert pick([USUAL, BETTER, replace(third, ms=0.5)]).use == "int4"


@pytest.mark.slow
def test_auto_tries_every_way_on_a_real_graph_and_ships_what_it_names_first() -> None:
    folder, bundle = day_zero()
    graph = next(folder.glob("stages/export-*/encoder.onnx")).read_bytes()
    tokenizer = (bundle / "tokenizer.json").read_text("utf-8")
    small, tried = pack(graph, CompressRecipe(use="auto"), tokenizer, TEXTS)

    assert {one.use for one in tried} == set(WAYS)
    assert tried[0].size == len(small)
    # Each is a working encoder near the one before, whichever wins on this machine.
    assert min(one.cosine for one in tried) > 0.95
    assert min(one.ms for one in tried) > 0.0


def test_a_way_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="known: auto, int8_dynamic"):
        pack(b"", CompressRecipe(use="int3"), "", TEXTS)
