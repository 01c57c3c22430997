"""The clock that a box without cron or systemd uses, run for real."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

NIGHTLY = Path(__file__).resolve().parents[3] / "deploy" / "docker" / "nightly.sh"


def nightly(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(NIGHTLY), *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("status", [0, 1, 2])
def test_one_night_leaves_with_the_command_s_own_status(status: int) -> None:
    """Kubernetes and cron read it."""
    assert status == nightly("sh", "-c", f"exit {status}", NIGHT_ONCE="1").returncode


@pytest.mark.parametrize("at", ["00:00", "08:09", "23:59"])
def test_the_next_night_is_within_a_day(at: str) -> None:
    """08 and 09 are no octal numbers."""
    waited = int(nightly("true", NIGHT_AT=at, NIGHT_PRINT="1").stdout)

    assert 1 <= waited <= 86_400


@pytest.mark.parametrize("at", ["24:00", "2:30", "02:60", "noon", ""])
def test_a_time_that_is_none_is_refused_in_one_sentence(at: str) -> None:
    """An empty variable is a common slip of a compose file: it means the default."""
    done = nightly("true", NIGHT_AT=at, NIGHT_PRINT="1")

    if at == "":
        assert done.returncode == 0
    else:
        assert done.returncode == 2
        assert "NIGHT_AT must be HH:MM" in done.stderr


def test_without_a_command_it_says_what_to_name() -> None:
    """The clock has nothing of its own to run."""
    done = nightly()

    assert done.returncode == 2
    assert "understudy distill run" in done.stderr


def test_it_stops_at_once_when_it_is_told_to() -> None:
    """`docker compose down` should not wait ten seconds for a sleep."""
    with subprocess.Popen(["sh", str(NIGHTLY), "true"], stdout=subprocess.PIPE, text=True) as clock:
        assert clock.stdout is not None
        assert "next run in" in clock.stdout.readline()
        clock.send_signal(signal.SIGTERM)

        assert clock.wait(timeout=5) == 0
