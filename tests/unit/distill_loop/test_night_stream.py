"""What a stream's recipe adds: names as examples, a teacher's weight, trust in small steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from understudy.distill_loop.evidence import Evidence, Sheet
from understudy.distill_loop.gate import Ruling, judge
from understudy.distill_loop.lesson import weights_of
from understudy.distill_loop.naming import name_examples, readable_name
from understudy.distill_loop.recipe import DataRecipe, GateRecipe, load_recipe
from understudy.distill_loop.rows import Example, Origin
from understudy.distill_loop.split import Fold, fold_of
from understudy.router.certificate import certify
from understudy.types.contract import Contract
from understudy.types.records import TeacherLabel

SAYS_CARD = TeacherLabel("t", "h", ("card", "refund"), (-0.1, -2.4))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        pytest.param("card_arrival", "card arrival", id="snake"),
        pytest.param("lostOrStolenCard", "lost Or Stolen Card", id="camel"),
        pytest.param("billing/refund-request", "billing refund request", id="path"),
        pytest.param("Überweisung fehlt", "Überweisung fehlt", id="other-alphabets"),
        pytest.param("17", "", id="number"),
        pytest.param("Q4", "", id="code"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_a_class_s_name_is_read_where_it_is_words(label: str, words: str) -> None:
    assert words == readable_name(label)


def test_names_teach_and_never_judge() -> None:
    rows = name_examples(["card_arrival", "17"])

    assert [("card arrival", "card_arrival")] == [(row.text, row.target) for row in rows]
    assert {Fold.TRAIN} == {fold_of(row, load_recipe("head-only").split) for row in rows}


def test_a_teacher_s_answer_counts_less_than_a_given_example_if_the_recipe_says_so() -> None:
    given = Example(id="1", text="a", label="card")
    taught = Example(id="2", text="b", teacher=SAYS_CARD, origin=Origin.ESCALATION)
    index = np.array([0, 0])

    even = weights_of([given, taught], index, DataRecipe())
    wary = weights_of([given, taught], index, DataRecipe(taught_weight=0.3))

    assert even[0] == pytest.approx(even[1])
    assert 0.3 == pytest.approx(wary[1] / wary[0])
    assert 1.0 == pytest.approx(wary.mean())


def sheet(right: int, rows: int) -> Sheet:
    """An uncertified student that is right on the first rows."""
    return Sheet(
        right=np.arange(rows) < right,
        confidence=np.full(rows, 0.9),
        certificate=certify(np.zeros(0), np.zeros(0), Contract()),
    )


@pytest.mark.parametrize(
    ("right", "trusting", "strict"),
    [
        pytest.param(12, Ruling.PROMOTE, Ruling.KEEP, id="one-row-fewer-is-a-doubt"),
        pytest.param(0, Ruling.KEEP, Ruling.KEEP, id="all-wrong-is-certain"),
    ],
)
def test_trust_takes_a_doubt_for_a_pass_and_a_certain_loss_for_a_loss(
    right: int, trusting: Ruling, strict: Ruling
) -> None:
    evidence = Evidence(new=sheet(right, 15), old=sheet(13, 15))
    recipe = GateRecipe(require_gain=False)

    assert strict is judge(evidence, recipe).ruling
    verdict = judge(evidence, replace(recipe, trust=True))
    assert trusting is verdict.ruling


def test_what_was_trusted_says_so() -> None:
    evidence = Evidence(new=sheet(0, 0), old=sheet(0, 0))

    verdict = judge(evidence, GateRecipe(require_gain=False, trust=True))

    assert any("in doubt, trusted" in check.says for check in verdict.checks)
    assert Ruling.PROMOTE is verdict.ruling


def test_the_stream_preset_spares_no_row_but_those_that_may_certify() -> None:
    split = load_recipe("stream").split
    asked = Example(id="1", text="a", teacher=SAYS_CARD, origin=Origin.ESCALATION)

    assert Fold.TRAIN is fold_of(asked, split)
    assert Fold.GATE is fold_of(replace(asked, unbiased=True), split)
