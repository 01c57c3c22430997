"""Ray's failures become ours, one to one: the gateway has a status code for each of ours only."""

from __future__ import annotations

import pytest

from understudy.cloud.serve_client import our_error
from understudy.types.errors import (
    DataError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)

pytest.importorskip("ray.serve", reason="install understudy[cloud]")


def failures() -> list[tuple[BaseException, type[UnderstudyError]]]:
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    def inside(cause: Exception) -> RayTaskError:
        return RayTaskError("score_labels", "a traceback", cause)

    return [
        (BackPressureError(5, 4), OverloadedError),
        (ActorDiedError(), LinkDownError),
        (ActorUnavailableError("gone", None), LinkDownError),
        (DeploymentUnavailableError(DeploymentID("Teacher", "app")), LinkDownError),
        (inside(DataError("ours")), DataError),
        (inside(ValueError("wrong argument")), InvalidValueError),
        (inside(KeyError("a bug")), TeacherError),
        (RuntimeError("something of Ray's"), TeacherError),
    ]


@pytest.mark.parametrize("number", range(8))
def test_each_failure_has_its_error(number: int) -> None:
    failure, kind = failures()[number]

    assert type(our_error(failure, retry_after_s=0.5)) is kind


def test_patience_is_rays_own_where_it_says_so() -> None:
    from ray.serve.exceptions import BackPressureError

    said = our_error(BackPressureError(5, 4, 503, 2.0), retry_after_s=0.5)
    unsaid = our_error(BackPressureError(5, 4), retry_after_s=0.5)

    assert isinstance(said, OverloadedError)
    assert isinstance(unsaid, OverloadedError)
    assert (2.0, 0.5) == (said.retry_after_s, unsaid.retry_after_s)
