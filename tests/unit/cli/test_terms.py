"""What the options of a simulation come to, with and without a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudy.cli.terms import (
    Terms,
    audit_rate_of,
    calls_of,
    contract_under,
    edge_contract,
    night_calls_of,
    recipe_of,
    refresh_of,
)
from understudy.distill_loop.recipe import load_recipe
from understudy.types.contract import Contract, Precedence
from understudy.types.errors import ConfigError

CONTRACT = Contract(precedence=Precedence.BUDGET)


def terms(budget: float) -> Terms:
    return Terms(recipe="stream", audit_rate=0.01, budget=budget, early_lead=0.9, refresh_every=20)


def test_a_budget_chooses_the_recipe_for_streams_and_a_named_one_wins() -> None:
    assert "stream" == recipe_of("", 0.2)
    assert "intents-default" == recipe_of("", 1.0)
    assert "mine.yaml" == recipe_of("mine.yaml", 0.2)


@pytest.mark.parametrize(
    ("wanted", "budget", "rate"),
    [
        pytest.param(None, 1.0, 0.05, id="without-a-budget"),
        pytest.param(None, 0.2, 0.005, id="a-fortieth-of-the-budget"),
        pytest.param(None, 0.8, 0.02, id="more-of-a-larger-one"),
        pytest.param(None, 0.01, 0.005, id="never-blind"),
        pytest.param(0.1, 0.2, 0.1, id="as-wanted"),
    ],
)
def test_audits_take_a_small_part_of_a_budget(
    wanted: float | None, budget: float, rate: float
) -> None:
    assert rate == pytest.approx(audit_rate_of(wanted, budget))


def test_the_head_is_refreshed_by_day_where_nights_alone_would_be_too_slow() -> None:
    stream, nightly = load_recipe("stream"), load_recipe("intents-default")

    assert stream.schedule.refresh_labels == refresh_of(None, 0.2, stream)
    assert nightly.schedule.refresh_labels == refresh_of(None, 0.2, nightly)
    assert 0 == refresh_of(None, 1.0, nightly)
    assert 0 == refresh_of(0, 0.2, stream)


def test_the_client_gets_the_budget_that_the_nights_leave() -> None:
    recipe = load_recipe("stream")
    asking = replace(recipe, data=replace(recipe.data, teacher_budget=10, generate=5))

    contract = edge_contract(terms(0.2), CONTRACT, 1000, reserved=2 * night_calls_of(asking))

    assert 0.16 == pytest.approx(contract.max_teacher_share)
    assert 1000 == contract.early_requests
    assert 200 == calls_of(0.2, 1000)
    assert 29 == calls_of(0.29, 100)
    assert calls_of(1.0, 1000) is None


def test_nights_that_would_ask_for_more_than_the_budget_are_refused() -> None:
    with pytest.raises(ConfigError, match="raise --budget or lower"):
        edge_contract(terms(0.2), CONTRACT, 100, reserved=20)


def test_a_budget_wins_over_the_contract_and_no_budget_leaves_it() -> None:
    assert Precedence.BUDGET is contract_under(Contract(), 0.2).precedence
    assert Precedence.QUALITY is contract_under(Contract(), 1.0).precedence
