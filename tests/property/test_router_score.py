"""Laws of the scores: one row and many rows agree, and what is wrong never becomes confident."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.router.fit import isotonic
from understudy.router.policy import INVALID, Policy
from understudy.router.score import FEATURES, SCORES, score, score_many
from understudy.types.contract import Calibration
from understudy.types.decision import Action
from unit.router.rows import KEY

NUMBERS = st.floats(-80.0, 80.0)
ROWS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=1, max_dims=1, min_side=2, max_side=30), elements=NUMBERS
)
WEIGHTS = st.dictionaries(st.sampled_from(["bias", *FEATURES]), st.floats(-5, 5), min_size=1)
MAPS = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6, unique=True).map(sorted)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    x = draw(MAPS)
    y = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=len(x), max_size=len(x))))
    mapped = draw(st.booleans()) and float(np.diff(x).min()) > 1e-6
    return Calibration(
        temperature=draw(st.floats(0.1, 10.0)),
        score=draw(st.sampled_from(SCORES)),
        weights=draw(WEIGHTS),
        knots_x=tuple(x) if mapped else (),
        knots_y=tuple(y) if mapped else (),
        ood_threshold=draw(st.floats(-1.0, 1.0)),
    )


@given(ROWS, st.floats(-1.0, 1.0), calibrations())
def test_one_row_and_many_rows_agree(
    logits: np.ndarray, similarity: float, calibration: Calibration
) -> None:
    """The night certifies with one, the edge decides with the other."""
    one = score(logits, similarity, calibration)
    many = score_many(np.stack([logits, logits[::-1]]), [similarity, similarity], calibration)

    assert many.confidence.tolist() == pytest.approx([one.confidence] * 2, abs=1e-6)
    assert many.valid.tolist() == [one.valid] * 2
    assert many.foreign.tolist() == [one.foreign] * 2


@given(
    ROWS,
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 29),
    calibrations(),
)
def test_what_is_not_finite_always_escalates(
    logits: np.ndarray, bad: float, place: int, calibration: Calibration
) -> None:
    logits[place % len(logits)] = bad
    policy = Policy(threshold=0.0, audit_rate=0.1, certified=True, audit_key=KEY)

    assert INVALID == score(logits, 1.0, calibration)
    assert Action.ESCALATE is policy.decide(score(logits, 1.0, calibration), "r").action


@given(ROWS, st.permutations(range(30)), st.floats(-5.0, 5.0), st.sampled_from(SCORES[:3]))
def test_names_and_offsets_of_classes_do_not_matter(
    logits: np.ndarray, order: list[int], offset: float, name: str
) -> None:
    plain = Calibration(score=name)
    moved = logits[[i for i in order if i < len(logits)]] + offset
    found = score(logits, 1.0, plain)

    if found.valid and score(moved, 1.0, plain).valid:
        assert found.confidence == pytest.approx(score(moved, 1.0, plain).confidence, abs=1e-9)


@given(ROWS, st.sampled_from(SCORES[:3]), st.floats(1.1, 5.0))
def test_a_larger_lead_is_never_less_sure(logits: np.ndarray, name: str, factor: float) -> None:
    plain = Calibration(score=name)
    found, surer = (score(logits * f, 1.0, plain) for f in (1.0, factor))

    if found.valid and surer.valid:
        assert surer.confidence >= found.confidence - 1e-9


@given(
    st.lists(
        st.tuples(st.floats(0.0, 1.0), st.booleans(), st.floats(0.1, 10.0)),
        min_size=2,
        max_size=60,
    )
)
def test_the_isotonic_map_rises_and_stays_in_range(
    rows: list[tuple[float, bool, float]],
) -> None:
    raw, agree, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    x, y = isotonic(raw, agree, weights)

    assert np.all(np.diff(x) > 0.0)
    assert np.all(np.diff(y) >= 0.0)
    assert 0.0 <= y.min() <= y.max() <= 1.0
