"""From numbers to labels: normalised, best first, honest about what is missing."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cloud.teacher import ScoreRequest
from understudy.cloud.teacher.distribution import (
    expired,
    prompt_hash,
    ranked_label,
    restricted_label,
)
from understudy.types.errors import DeadlineError, InvalidValueError, TeacherError
from understudy.types.records import TeacherLabel

KNOWN = ("lost", "stolen", "fee")


def probabilities(label: TeacherLabel) -> dict[str, float]:
    return dict(zip(label.labels, np.exp(label.log_probs).tolist(), strict=True))


@given(st.lists(st.floats(-80.0, 80.0), min_size=2, max_size=30))
def test_any_logits_become_a_distribution_best_first(logits: list[float]) -> None:
    labels = [f"label {index}" for index in range(len(logits))]

    label = ranked_label(labels, np.array(logits), teacher="t", prompt_hash="h")

    assert sum(probabilities(label).values()) == pytest.approx(1.0)
    assert logits[labels.index(label.label)] == pytest.approx(max(logits))


def test_classes_left_out_of_the_question_are_missing_from_the_mass() -> None:
    logits = np.log([0.5, 0.2, 0.3])

    label = restricted_label(KNOWN, logits, ("fee", "stolen"), teacher="t", prompt_hash="h")

    assert probabilities(label) == pytest.approx({"fee": 0.6, "stolen": 0.4})
    assert label.label_mass == pytest.approx(0.5)


def test_an_unknown_class_is_the_callers_mistake_and_names_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match=r"'stollen'\. Did you mean 'stolen'"):
        restricted_label(KNOWN, np.zeros(3), ("stollen",), teacher="t", prompt_hash="h")


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [-math.inf, -math.inf]], ids=["nan", "-inf"])
def test_scores_that_are_no_numbers_are_the_teachers_error(bad: list[float]) -> None:
    with pytest.raises(TeacherError):
        ranked_label(("a", "b"), np.array(bad), teacher="t", prompt_hash="h")


def test_labels_of_different_questions_have_different_hashes() -> None:
    assert prompt_hash("a", ["x", "y"]) == prompt_hash("a", ["x", "y"])
    assert prompt_hash("a", ["x", "y"]) != prompt_hash("a", ["y", "x"])


def test_only_a_deadline_that_has_passed_drops_the_work() -> None:
    assert expired(ScoreRequest(text="t")) is None
    assert expired(ScoreRequest(text="t", deadline_unix_s=time.time() + 60)) is None
    assert isinstance(expired(ScoreRequest(text="t", deadline_unix_s=1.0)), DeadlineError)
