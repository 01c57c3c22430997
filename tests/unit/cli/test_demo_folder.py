"""What a demo does to its folder before it knows that it can begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.cli.demo import DemoOptions, run_demo
from understudy.cli.folder import prepare_folder
from understudy.types.contract import Contract
from understudy.types.errors import DataError


def options(out: Path, data: Path) -> DemoOptions:
    return DemoOptions(out=out, contract=Contract(max_quality_loss=0.05), data=data)


def test_a_file_that_cannot_be_used_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        run_demo(options(tmp_path / "demo", tmp_path / "nope.csv"))

    assert not (tmp_path / "demo").exists()


def test_a_file_that_cannot_be_used_leaves_an_earlier_report_alone(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "demo")
    report = tmp_path / "demo" / "report.html"
    report.write_text("of yesterday")

    with pytest.raises(DataError):
        run_demo(options(tmp_path / "demo", tmp_path / "nope.csv"))

    assert report.read_text() == "of yesterday"
