"""What crosses to a replica comes back as it was, errors included."""

from __future__ import annotations

import math
import pickle

import pytest

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest
from understudy.cloud.teacher.payload import (
    Plain,
    error_from_plain,
    generate_request_from_plain,
    generation_from_plain,
    label_from_plain,
    request_to_plain,
    result_to_plain,
    score_request_from_plain,
)
from understudy.types.errors import DeadlineError, OverloadedError, TeacherError
from understudy.types.records import TeacherLabel


def travelled(plain: Plain) -> Plain:
    copy: Plain = pickle.loads(pickle.dumps(plain))  # noqa: S301 - our own bytes, as Ray does it
    return copy


def test_requests_come_back_as_they_were() -> None:
    score = ScoreRequest(
        text="t", labels=("a", "b"), priority=3, deadline_unix_s=math.inf, trace="x"
    )
    ask = GenerateRequest(prompt="p", choices=("yes",), top_log_probs=2)

    assert score == score_request_from_plain(travelled(request_to_plain(score)))
    assert ask == generate_request_from_plain(travelled(request_to_plain(ask)))


def test_results_come_back_as_they_were() -> None:
    label = TeacherLabel("t", "h", ("a", "b"), (-0.1, -2.4), 0.8, "because")
    said = Generation(text="t", tokens=(1,), log_probs=(-0.5,), top=(((1, -0.5), (2, -1.0)),))

    assert label == label_from_plain(travelled(result_to_plain(label)))
    assert said == generation_from_plain(travelled(result_to_plain(said)))


def test_an_error_keeps_its_class_sentence_and_patience() -> None:
    """The gateway turns the class into a status: a lost class would be a wrong status."""
    late = label_from_plain(travelled(result_to_plain(DeadlineError("too late"))))
    full = error_from_plain(travelled(result_to_plain(OverloadedError("full", 1.5))))

    assert isinstance(late, DeadlineError)
    assert str(late) == "too late"
    assert isinstance(full, OverloadedError)
    assert full.retry_after_s == pytest.approx(1.5)


def test_an_error_of_a_newer_replica_is_at_least_a_teachers_error() -> None:
    error = error_from_plain({"error": "SomethingNewError", "message": "m", "retry_after_s": 0.0})

    assert type(error) is TeacherError
