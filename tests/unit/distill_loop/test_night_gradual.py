"""Pruning by rounds: shapes on the way, what goes first, and a student that learns in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simulators.night_world import NOW, seed_rows, tiny_base, tiny_recipe, utterances
from understudy.distill_loop.base import find_base
from understudy.distill_loop.build import build_student
from understudy.distill_loop.checkpoint import load_model
from understudy.distill_loop.gradual import Shape, a_round, prune_to, shapes
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe, StudentRecipe
from understudy.distill_loop.run import run_night
from understudy.distill_loop.student import StudentModel, encode
from understudy.distill_loop.workspace import Workspace
from understudy.types.errors import ConfigError

TEXTS = [text for text, _ in utterances(32, 4)]


def _recipe(**changes: object) -> StudentRecipe:
    options = {"depth": 1, "rounds": 2}
    plain = replace(tiny_recipe().student, use="gradual", heads=2, ffn=16, options=options)
    return replace(plain, **changes)  # type: ignore[arg-type] # tests name fields


def _build(recipe: StudentRecipe) -> StudentModel:
    return build_student(recipe, find_base(str(tiny_base())), TEXTS)


def test_shapes_shrink_by_even_ratios_and_end_where_the_recipe_says() -> None:
    model = _build(_recipe())
    found = shapes(_recipe(options={"depth": 1, "rounds": 2}), model.encoder.spec)

    assert found == (Shape(2, 3, 32), Shape(1, 2, 16))
    assert shapes(replace(_recipe(), use="slim"), model.encoder.spec) == ()


def test_what_has_the_last_shape_is_not_cut_again() -> None:
    # A champion starts the next night as it is.
    model = _build(_recipe())
    done = prune_to(model, Shape(1, 2, 16), TEXTS)

    assert shapes(_recipe(), done.encoder.spec) == ()


@pytest.mark.parametrize(
    "changes", [{"options": {"depth": 3}}, {"heads": 5}, {"ffn": 65}, {"options": {"rounds": 0}}]
)
def test_an_end_larger_than_the_beginning_is_one_sentence(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"(depth|heads|ffn) must lie in|rounds must be"):
        _build(_recipe(**changes))


@pytest.mark.parametrize("dead", [0, 1])
def test_the_layer_that_does_nothing_goes_first(dead: int) -> None:
    model = _build(_recipe())
    with torch.no_grad():
        for parameter in model.encoder.blocks[dead].parameters():
            parameter.mul_(0.0)
        model.encoder.blocks[dead].attention.norm.weight.fill_(1.0)  # type: ignore[union-attr,operator] # a norm
        model.encoder.blocks[dead].norm.weight.fill_(1.0)  # type: ignore[union-attr,operator] # a norm
    cut = prune_to(model, Shape(1, 4, 64), TEXTS)

    assert (encode(cut, TEXTS) * encode(model, TEXTS)).sum(1).min() > 0.999
    assert cut.layer_map == (1 - dead,)


def test_all_rounds_together_take_the_steps_of_the_recipe() -> None:
    plain = Recipe()
    part = a_round(replace(plain, distil=replace(plain.distil, epochs=4, batch=10)), 50, 4)

    assert (part.distil.min_steps, part.distil.max_steps) == (5, 5)


@pytest.mark.slow
def test_a_night_cuts_by_rounds_and_ships_the_last_shape(tmp_path: Path) -> None:
    recipe = tiny_recipe(student=_recipe())
    recipe = replace(recipe, distil=replace(recipe.distil, epochs=2, max_steps=8))
    sources = Sources(seed=seed_rows(8), now_unix_s=NOW)
    result = run_night(recipe, Workspace(tmp_path), sources, name="n1")
    spec = load_model(tmp_path / "checkpoints" / result.challenger).encoder.spec

    assert (spec.heads, spec.ffn, spec.uses) == ((2,), (16,), (0,))
    assert result.figures["parity"]["cosine"] > 0.98
