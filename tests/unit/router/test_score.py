"""From numbers to one confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from understudy.router.policy import INVALID
from understudy.router.score import SCORES, judge, score, score_many
from understudy.types.contract import Calibration
from understudy.types.errors import InvalidValueError

PLAIN = Calibration(score="margin", ood_threshold=0.2)
BAD_ROWS = [
    pytest.param([math.nan, 1.0, 2.0], id="nan"),
    pytest.param([math.inf, 1.0, 2.0], id="infinite"),
    pytest.param([-math.inf, 1.0, 2.0], id="minus-infinite"),
    pytest.param([0.0, 1.0, 0.0], id="one-hot"),
    pytest.param([0.0, 500.0, 0.0], id="saturated"),
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_numbers_that_cannot_be_used_never_become_a_confidence(row: list[float]) -> None:
    # Invalid input that reads as "easy" is how cascades keep nonsense on the edge.
    assert INVALID == score(row, 0.9, PLAIN)


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_does_not_spoil_its_batch(row: list[float]) -> None:
    found = score_many([row, [3.0, 1.0, 0.0]], [0.9, 0.9], PLAIN)

    assert [False, True] == found.valid.tolist()
    assert -1.0 == found.effective[0]
    assert found.confidence[1] > 0.5


@pytest.mark.parametrize(
    ("logits", "classes"),
    [
        pytest.param([], None, id="empty"),
        pytest.param([1.0], None, id="one-class"),
        pytest.param([1.0, 2.0], 3, id="wrong-length"),
        pytest.param([[1.0, 2.0]], None, id="a-table"),
        pytest.param(["a", "b"], None, id="words"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_what_is_no_row_of_numbers_is_invalid(logits: object, classes: int | None) -> None:
    assert INVALID == score(logits, 0.9, PLAIN, classes=classes)  # type: ignore[arg-type]


def test_a_similarity_that_is_no_number_is_invalid() -> None:
    assert INVALID == score([1.0, 2.0], math.nan, PLAIN)
    assert [False] == score_many([[1.0, 2.0]], [math.nan], PLAIN).valid.tolist()


def test_a_batch_of_one_class_has_no_valid_row() -> None:
    assert [False, False] == score_many([[1.0], [2.0]], [0.5, 0.5], PLAIN).valid.tolist()


def test_a_batch_must_fit_together() -> None:
    with pytest.raises(InvalidValueError, match="do not fit"):
        score_many([[1.0, 2.0]], [0.1, 0.2], PLAIN)


def test_an_input_unlike_anything_taught_is_foreign() -> None:
    assert score([3.0, 1.0, 0.5], 0.19, PLAIN).foreign
    assert not score([3.0, 1.0, 0.5], 0.2, PLAIN).foreign
    assert -1.0 == score_many([[3.0, 1.0, 0.5]], [0.1], PLAIN).effective[0]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        pytest.param("margin", 0.6, id="margin"),
        pytest.param("max_prob", 0.75, id="max_prob"),
        pytest.param(
            "entropy",
            1 + (0.75 * math.log(0.75) + 0.15 * math.log(0.15) + 0.1 * math.log(0.1)) / math.log(3),
            id="entropy",
        ),
        pytest.param("energy", 0.5, id="energy"),
    ],
)
def test_scores_are_what_they_are_called(name: str, wanted: float) -> None:
    logits = np.log([0.15, 0.75, 0.1])

    assert wanted == pytest.approx(score(logits, 0.9, Calibration(score=name)).confidence)


def test_temperature_divides_the_logits() -> None:
    cold = score([2.0, 0.0], 0.9, Calibration(score="max_prob", temperature=2.0)).confidence

    assert cold == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_learned_score_weighs_the_features() -> None:
    learned = Calibration(score="learned", weights={"bias": -1.0, "gap": 0.5, "similarity": 2.0})

    wanted = 1 / (1 + math.exp(-(-1.0 + 0.5 * 3.0 + 2.0 * 0.4)))
    assert wanted == pytest.approx(score([3.0, 0.0], 0.4, learned).confidence)


def test_the_isotonic_map_is_joined_by_lines_and_flat_outside() -> None:
    mapped = Calibration(score="max_prob", knots_x=(0.6, 0.8), knots_y=(0.2, 0.4))

    def at(p: float) -> float:
        return score(np.log([p, 1 - p]), 0.9, mapped).confidence

    assert [0.2, 0.3, 0.4] == pytest.approx([at(0.55), at(0.7), at(0.95)])


@pytest.mark.parametrize("name", ["softmax", "learned"])
def test_a_score_that_does_not_exist_is_an_error(name: str) -> None:
    # Never a fallback: a bundle of another version must not quietly change what is kept.
    unknown = Calibration(score=name, weights={"colour": 1.0})

    with pytest.raises(InvalidValueError):
        score([1.0, 2.0], 0.9, unknown)
    with pytest.raises(InvalidValueError):
        score_many([[1.0, 2.0]], [0.9], unknown)


def test_equal_numbers_are_the_least_sure() -> None:
    for name in set(SCORES) - {"learned", "energy"}:
        lowest = score([1.0] * 4, 0.9, Calibration(score=name)).confidence
        assert lowest <= 0.25


def test_a_judged_row_names_its_best_classes_with_their_probabilities() -> None:
    found = judge([0.0, 3.0, 1.0, 2.0], 0.9, Calibration(score="max_prob", temperature=2.0), top=3)
    powers = np.exp(np.array([0.0, 3.0, 1.0, 2.0]) / 2.0)

    assert (1, 3, 2) == found.best
    assert found.shares == pytest.approx([powers[i] / powers.sum() for i in found.best])
    assert found.score.confidence == pytest.approx(found.shares[0])


@pytest.mark.parametrize("row", BAD_ROWS)
def test_numbers_that_cannot_be_used_name_no_class(row: list[float]) -> None:
    assert ((), ()) == judge(row, 0.9, PLAIN)[1:]


def test_fewer_classes_than_asked_for_are_all_named() -> None:
    assert (0, 1) == judge([2.0, 1.0], 0.9, PLAIN, top=5).best
