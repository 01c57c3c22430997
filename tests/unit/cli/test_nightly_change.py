"""What the night hears of the live watch."""

from __future__ import annotations

from pathlib import Path

from simulators.cloud_gateway import TASK, config
from understudy.cli.nightly import _changes
from understudy.cloud.state import SqliteState


def test_a_night_learns_from_the_watch_where_traffic_changed(tmp_path: Path) -> None:
    """Where no gateway has run yet, nothing has been heard."""
    cloud = config(tmp_path)
    before = _changes(cloud, TASK)
    made = cloud.path("state.db").exists()
    state = SqliteState(cloud.path("state.db"))
    state.put(f"change/{TASK}", b'{"": 1234, "legal": 2345}')
    state.close()

    assert ({}, False) == (before, made)
    assert ({"": 1234, "legal": 2345}, {}) == (_changes(cloud, TASK), _changes(cloud, "other"))
