"""The search for a shape: what is too slow learns nothing, what was tried is not tried again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.night_world import seed_rows, tiny_base, tiny_recipe
from understudy.distill_loop.base import find_base
from understudy.distill_loop.recipe import Recipe, load_recipe
from understudy.distill_loop.search import Limits, Proposal, Space, search, usual_space
from understudy.distill_loop.workspace import Workspace
from understudy.types.errors import DataError, InvalidValueError

SPACE = Space(layers=((0,), (0, 1)), heads=(0, 2), vocabulary=(400,))
ROWS = seed_rows(8)


def _recipe() -> Recipe:
    recipe = tiny_recipe()
    return replace(recipe, distil=replace(recipe.distil, epochs=1))


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_puts_the_best_first(tmp_path: Path) -> None:
    told: list[Proposal] = []
    workspace, limits = Workspace(tmp_path), Limits(max_ms=1e6, trials=2, steps=3)
    first = search(_recipe(), workspace, ROWS, limits, space=SPACE, tell=told.append)
    again = search(_recipe(), workspace, ROWS, limits, space=SPACE, tell=told.append)
    more = search(_recipe(), workspace, ROWS, replace(limits, trials=3), space=SPACE)

    assert len(first) == len(told) == 2  # the second call tried nothing
    assert again == first
    assert len(more) == 3
    assert all(one in more for one in first)
    assert [one.accuracy for one in more] == sorted((o.accuracy for o in more), reverse=True)
    assert all(one.accuracy > 0.125 for one in more)  # chance, with eight classes
    assert {one.student.use for one in more} <= {"slim", "pruned"}


@pytest.mark.slow
def test_what_is_too_slow_learns_nothing(tmp_path: Path) -> None:
    limits = Limits(max_ms=1e-6, trials=1, steps=3)
    found = search(_recipe(), Workspace(tmp_path), ROWS, limits, space=SPACE)

    assert math.isnan(found[0].accuracy)
    assert found[0].ms > limits.max_ms
    assert not list((tmp_path / "stages").glob("distil-*"))


def test_the_usual_space_names_only_layers_that_the_base_has() -> None:
    space = usual_space(find_base(str(tiny_base())))

    assert space.layers == ((0,), (0, 1))
    assert space.ffn == (0, 32)
    assert space.heads == (0, 2)


def test_a_search_without_rows_or_time_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="must be positive"):
        Limits(max_ms=0.0)
    with pytest.raises(DataError, match="at least two classes"):
        search(_recipe(), Workspace(tmp_path), ROWS[:1], Limits(max_ms=1.0), space=SPACE)


@pytest.mark.slow
def test_the_command_writes_the_best_as_a_recipe_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from typer.testing import CliRunner

    from understudy.cli.commands.distill import app

    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": row.text, "label": row.label}) for row in ROWS]
    rows.write_text("\n".join(lines) + "\n")
    found = Proposal(
        student=replace(_recipe().student, keep_layers=(0,)), ms=0.5, megabytes=1.0, accuracy=0.9
    )
    monkeypatch.setattr("understudy.distill_loop.search.search", lambda *_, **__: (found,))
    best = tmp_path / "best.yaml"
    done = CliRunner().invoke(
        app,
        ["search", "--seed", str(rows), "--workspace", str(tmp_path / "w"), "--max-ms", "1",
         "-o", str(best), "--json"],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["accuracy"] == 0.9
    assert load_recipe(str(best)).student.keep_layers == (0,)
