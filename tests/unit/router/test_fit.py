"""Fitting a calibration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from understudy.router.fit import (
    MOST_KNOTS,
    calibration_error,
    fit_calibration,
    fit_temperature,
    isotonic,
)
from understudy.router.score import SCORES, score_many
from understudy.types.contract import Calibration
from understudy.types.errors import DataError, InvalidValueError


class Student:
    """A student of ten classes that is too sure of itself by a factor of two."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        honest = rng.normal(size=(rows, 10)) * rng.uniform(0.3, 3.0, (rows, 1))
        probability = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
        drawn = (probability.cumsum(1) > rng.random((rows, 1))).argmax(1)
        self.logits, self.labels = 2.0 * honest, drawn
        self.near = rng.uniform(0.3, 1.0, rows)
        self.agree = honest.argmax(1) == drawn


TRAIN, TEST = Student(4000), Student(4000, seed=1)


@pytest.mark.parametrize("name", SCORES)
def test_confidence_means_the_chance_to_agree(name: str) -> None:
    fitted = fit_calibration(TRAIN.logits, TRAIN.near, TRAIN.agree, score=name, labels=TRAIN.labels)

    before = calibration_error(Calibration(score="max_prob"), TEST.logits, TEST.near, TEST.agree)
    after = calibration_error(fitted, TEST.logits, TEST.near, TEST.agree)
    assert before > 0.1
    assert after < 0.035


def test_the_temperature_is_found() -> None:
    assert fit_temperature(TRAIN.logits, TRAIN.labels, np.ones(4000)) == pytest.approx(2.0, rel=0.1)
    assert 1.0 == fit_calibration(TRAIN.logits, TRAIN.near, TRAIN.agree).temperature


def test_a_learned_score_uses_what_the_margin_cannot_see() -> None:
    # Where the student errs far from anything taught, similarity must lower the confidence.
    agree = TRAIN.agree & (TRAIN.near > 0.6)
    learned = fit_calibration(TRAIN.logits, TRAIN.near, agree, foreign_share=0.0)
    margin = fit_calibration(TRAIN.logits, TRAIN.near, agree, score="margin", foreign_share=0.0)

    def kept_at_risk(calibration: Calibration) -> int:
        sure = score_many(TEST.logits, TEST.near, calibration).confidence
        wrong = ~(TEST.agree & (TEST.near > 0.6))
        return int((np.cumsum(wrong[np.argsort(-sure)]) <= 100).sum())

    assert learned.weights["similarity"] > 0.0
    assert kept_at_risk(learned) > 1.5 * kept_at_risk(margin)


def test_the_map_keeps_the_order_of_the_score() -> None:
    # Ties would part the traffic in lumps no threshold can divide.
    fitted = fit_calibration(TRAIN.logits, TRAIN.near, TRAIN.agree, score="margin")
    raw = score_many(TEST.logits, TEST.near, Calibration(score="margin")).confidence
    mapped = score_many(TEST.logits, TEST.near, fitted).confidence

    assert np.all(np.diff(mapped[np.argsort(raw)]) > 0.0)
    assert 0.0 < mapped.min()
    assert mapped.max() < 1.0
    assert len(fitted.knots_x) <= MOST_KNOTS + 2
    assert all(a < b for a, b in itertools.pairwise(fitted.knots_x))


def test_long_maps_are_thinned() -> None:
    # The map travels in every bundle and is read on every request.
    raw = np.linspace(0.1, 0.9, 5000)
    x, y = isotonic(raw, raw**2, np.ones(5000))

    assert len(x) <= MOST_KNOTS + 2
    assert np.interp(raw, x, y) == pytest.approx(raw**2, abs=0.005)


def test_inputs_unlike_all_but_half_a_per_cent_are_foreign() -> None:
    fitted = fit_calibration(TRAIN.logits, TRAIN.near, TRAIN.agree)
    far = score_many(TEST.logits, TEST.near - 0.5, fitted)

    assert score_many(TEST.logits, TEST.near, fitted).foreign.mean() < 0.012
    assert far.foreign.mean() > 0.7
    off = fit_calibration(TRAIN.logits, TRAIN.near, TRAIN.agree, foreign_share=0.0)
    assert -1.0 == off.ood_threshold


@pytest.mark.parametrize(
    "agree", [np.ones(50), np.zeros(50), np.ones(10)], ids=["all-right", "all-wrong", "few"]
)
def test_rows_that_teach_nothing_leave_the_margin(agree: np.ndarray) -> None:
    count = len(agree)
    fitted = fit_calibration(TRAIN.logits[:count], TRAIN.near[:count], agree)

    assert ("margin", ()) == (fitted.score, fitted.knots_x)


def test_rows_that_cannot_be_used_are_left_out() -> None:
    logits, agree = TRAIN.logits.copy(), TRAIN.agree.astype(float)
    logits[0], agree[1] = math.nan, math.nan
    weights = np.ones(4000)
    weights[2] = 0.0
    fitted = fit_calibration(logits, TRAIN.near, agree, weights=weights)

    assert fitted == fit_calibration(logits[3:], TRAIN.near[3:], agree[3:])


def test_weights_count_like_copies() -> None:
    twice = np.where(np.arange(1000) < 500, 2.0, 1.0)
    doubled = np.concatenate([np.arange(1000), np.arange(500)])
    few = (TRAIN.logits[:1000], TRAIN.near[:1000], TRAIN.agree[:1000])
    weighted = fit_calibration(*few, score="margin", weights=twice)
    copied = fit_calibration(*(column[doubled] for column in few), score="margin")

    a, b = (score_many(TEST.logits, TEST.near, c).confidence for c in (weighted, copied))
    assert a == pytest.approx(b, abs=0.01)


def test_no_usable_row_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="none of the training rows"):
        fit_calibration([[math.nan, 1.0]], [0.5], [1])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"score": "softmax"}, id="score"),
        pytest.param({"foreign_share": 1.0}, id="share"),
        pytest.param({"labels": [1]}, id="labels"),
        pytest.param({"similarities": [0.5]}, id="similarities"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes: dict[str, object]) -> None:
    columns: dict[str, object] = {
        "logits": TRAIN.logits,
        "similarities": TRAIN.near,
        "agree": TRAIN.agree,
    }

    with pytest.raises(InvalidValueError):
        fit_calibration(**{**columns, **changes})  # type: ignore[arg-type]


def test_the_rounding_of_a_constant_is_no_feature() -> None:
    # A head with prototypes gives log-probabilities: their energy is zero but for float32's noise.
    shifted = TRAIN.logits - TRAIN.logits.max(1, keepdims=True)
    logs = (shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float32)
    weights = fit_calibration(logs, TRAIN.near, TRAIN.agree).weights

    assert "energy" not in weights
    assert max(abs(weight) for weight in weights.values()) < 1000.0
