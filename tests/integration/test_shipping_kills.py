"""SIGKILL in the middle of an update: the node always answers, and always finishes later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_node_killed_at_any_change_of_its_disk_answers_and_finishes(tmp_path: Path) -> None:
    """`bench/shipping_kill.py` does it a thousand times; here every seventh change or so.

    In a process of its own: it forks, which a process with gRPC threads should not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "simulators.killing", "--kills", "36", "--folder", tmp_path / "k"],
        cwd=ROOT / "tests",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert 0 == done.returncode, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] >= 36
    assert (0, 0, 0) == (report["could_not_answer"], report["mixed"], report["never_finished"])
    assert report["bytes_sent"] <= 1.1 * report["bytes_needed"]
    assert report["started_with_old"] > 0
    assert report["started_with_new"] > 0
