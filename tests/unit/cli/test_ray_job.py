"""Submitting a night to a cluster that has just come up."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.cli import ray_job
from understudy.types.errors import ConfigError

LATE = RuntimeError("Request failed with status code 500: No available agent to submit job")


class Cluster:
    """A job client whose first answers are errors."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked = 0

    def list_jobs(self) -> list[Any]:
        return []

    def submit_job(self, *, submission_id: str, **_: object) -> str:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        return submission_id


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "RECONNECT_S", 0.0)


JOB = ray_job.Job(id="understudy-night-d1", words=("understudy",), folder="")


def test_a_cluster_whose_job_agent_is_not_up_yet_is_asked_again() -> None:
    cluster = Cluster(LATE, LATE)

    assert ray_job._begin(cluster, JOB) == "understudy-night-d1"
    assert cluster.asked == 3


def test_an_agent_that_never_comes_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "AGENT_S", 0.0)

    with pytest.raises(ConfigError, match=r"takes no job: .*dashboard_agent\.log"):
        ray_job._begin(Cluster(LATE), JOB)


def test_another_refusal_is_said_at_once() -> None:
    cluster = Cluster(RuntimeError("no such runtime environment"), LATE)

    with pytest.raises(ConfigError, match="no such runtime environment"):
        ray_job._begin(cluster, JOB)
    assert cluster.asked == 1
