"""Recipes: what a person may write, and what they hear when they err."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from understudy.distill_loop.recipe import Recipe, load_recipe, preset_names
from understudy.types.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_recipe_of_its_own_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("distil: {epoch: 3}\n")

    with pytest.raises(ConfigError, match=r"unknown key 'distil.epoch'.*epochs"):
        load_recipe(str(file))


def test_an_unknown_preset_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="intents-default"):
        load_recipe("intent-default")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("split: {train: 0.9}", "must sum to 1"),
        ("split: {unbiased_train: 0.8, unbiased_calibration: 0.2}", "left to certify"),
        ("student: {keep_layers: [5, 0]}", "rising"),
        ("student: {max_tokens: 4}", "max_tokens"),
        ("head: {mix: 2.0}", "mix"),
        ("distil: {batch: 1}", "batch"),
    ],
)
def test_a_value_that_cannot_work_is_refused_when_it_is_read(
    tmp_path: Path, text: str, says: str
) -> None:
    # A night that fails at two in the morning for a typo has wasted a night.
    file = tmp_path / "recipe.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=says):
        load_recipe(str(file))


def test_two_recipes_that_differ_anywhere_have_different_digests() -> None:
    plain = Recipe()
    other = replace(plain, head=replace(plain.head, mix=plain.head.mix + 0.01))

    assert plain.digest == Recipe().digest
    assert plain.digest != other.digest
