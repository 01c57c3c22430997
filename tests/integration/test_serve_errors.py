"""Ray's failures become ours, one to one: the gateway has a status code for each of ours only."""

from __future__ import annotations

import pytest

from understudy.cloud.ray_start import RayOptions, start_ray
from understudy.cloud.serve_client import our_error
from understudy.types.errors import (
    ConfigError,
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


class Starts:
    """How each try to start Ray ends: with an error, or well."""

    def __init__(self, *endings: Exception | None) -> None:
        self._endings = list(endings)

    @property
    def left(self) -> int:
        return len(self._endings)

    def __call__(self, options: RayOptions) -> None:
        self.heard = options
        ending = self._endings.pop(0)
        if ending is not None:
            raise ending


LATE = Exception("The current node timed out during startup.")


def test_a_ray_that_comes_up_late_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """It gives its processes 30 seconds, which a busy machine can miss."""
    starts = Starts(LATE, LATE, None)

    start_ray(RayOptions(), starts)

    assert 0 == starts.left
    assert "started once more: The current node timed out" in caplog.text


def test_a_ray_that_never_comes_up_is_said_with_what_to_do() -> None:
    starts = Starts(LATE, LATE, LATE, None)

    with pytest.raises(ConfigError, match=r"3 tries: .*; give the machine less to do"):
        start_ray(RayOptions(), starts)

    assert 1 == starts.left


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param(RayOptions(), ValueError("no such folder"), id="wrong option"),
        pytest.param(
            RayOptions(address="10.0.0.1:6379"), ConnectionError("nobody there"), id="no cluster"
        ),
        pytest.param(RayOptions(address="10.0.0.1:6379"), RuntimeError("version"), id="other ray"),
    ],
)
def test_what_trying_again_does_not_mend_is_said_at_once(
    options: RayOptions, error: Exception
) -> None:
    starts = Starts(error, None)

    with pytest.raises(ConfigError, match="could not be started or joined"):
        start_ray(options, starts)

    assert 1 == starts.left
