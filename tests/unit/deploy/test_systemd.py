"""The systemd units: what they run, with which rights, and when.

`python deploy/check.py` has systemd itself verify them.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from unit.deploy.commands import check

UNITS = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
PROGRAM = "/usr/local/bin/understudy"


def read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # keys are case sensitive
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.stem)
def test_a_service_runs_a_command_that_people_can_type(path: Path) -> None:
    """Nothing here is a second way to start the product."""
    program, *words = read(path)["Service"]["ExecStart"].split()

    assert program == PROGRAM
    check(words)


@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.stem)
def test_a_service_has_no_rights_it_does_not_need(path: Path) -> None:
    """The list that `systemd-analyze security` asks for."""
    service = read(path)["Service"]

    assert service["User"] == "understudy"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert "TimeoutSt" in " ".join(service)


def test_the_night_runs_at_night_and_makes_up_for_one_that_was_missed() -> None:
    """A box that was off at half past two still learns."""
    timer = read(UNITS / "understudy-night.timer")["Timer"]

    assert "02:30:00 UTC" in timer["OnCalendar"]
    assert timer["Persistent"] == "true"
    assert (UNITS / timer["Unit"]).is_file()


def test_only_the_night_reads_the_publisher_s_passphrase() -> None:
    """A broken gateway must not be able to sign a student."""
    readers = [p.stem for p in SERVICES if "publisher.env" in p.read_text()]

    assert readers == ["understudy-night"]
