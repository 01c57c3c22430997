"""Starts on probation are counted, so that a student that crashes its process is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.bundles import build_bundle
from understudy.edge.updater_state import (
    MAX_STARTS,
    START_SPACING_S,
    Record,
    StateFolder,
    boot,
    settle,
)
from understudy.types.release import UpdateState


class Clock:
    """Moves on between two starts, far enough for both to count."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        self.now += 2 * START_SPACING_S
        return self.now


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node whose student is on probation."""
    build_bundle(tmp_path / "bundle", static=True)
    folder = StateFolder(tmp_path / "node")
    folder.adopt(tmp_path / "bundle")
    current = folder.current()
    assert current is not None
    folder.persist(Record(state=UpdateState.PROBATION, bundle=current.bundle, attempts=1))
    return tmp_path / "node"


def test_a_student_that_crashes_every_start_is_taken_back(home: Path) -> None:
    """No updater has to run for it."""
    clock = Clock()
    for _ in range(MAX_STARTS):
        boot(home, clock)

    record = StateFolder(home).record()
    assert record.state is UpdateState.ROLLBACK
    assert "starts" in record.failure


def test_processes_that_end_in_good_order_never_take_a_student_back(home: Path) -> None:
    """Commands in a shell are short: three of them are no crash loop."""
    clock = Clock()
    for _ in range(5 * MAX_STARTS):
        boot(home, clock)
        settle(home)

    record = StateFolder(home).record()
    assert (record.state, record.attempts) == (UpdateState.PROBATION, 1)


def test_a_student_that_has_proved_itself_is_left_alone(home: Path) -> None:
    """There is nothing to count any more."""
    folder = StateFolder(home)
    folder.persist(Record(committed=4))

    settle(home)

    assert folder.record() == Record(committed=4)
