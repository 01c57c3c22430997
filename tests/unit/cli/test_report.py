"""The report: every promised field, one self-contained page, never half a file."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from understudy.cli.days import DayReport, Totals
from understudy.cli.report import Lesson, NightLine, StreamReport, write_report
from understudy.types.contract import Contract

PROMISED_DAY = {
    "day", "requests", "escalation_rate", "audit_rate", "degraded_rate", "system_accuracy",
    "student_accuracy", "teacher_accuracy", "agreement", "joint_risk", "threshold", "certified",
    "bundle", "edge_p50_ms", "edge_p99_ms",
}  # fmt: skip
PROMISED_TOTALS = {
    "requests", "teacher_call_rate", "system_accuracy", "teacher_accuracy", "agreement",
    "joint_risk", "edge_p50_ms", "bytes_shipped", "seconds",
}  # fmt: skip


def a_day(day: int, escalated: float) -> DayReport:
    return DayReport(
        day=day, requests=400, escalation_rate=escalated, audit_rate=0.1, degraded_rate=0.0,
        teacher_call_rate=escalated + 0.05, system_accuracy=0.93, student_accuracy=0.7 + day / 20,
        teacher_accuracy=0.935, agreement=0.98, joint_risk=0.01, kept_rate=1 - escalated,
        threshold=0.4 if day > 1 else None, certified=day > 1, certified_rate=0.5,
        bundle=f"{day}" * 64, edge_p50_ms=0.9, edge_p99_ms=1.8,
        new_labels=("recall",) if day == 3 else (),
    )  # fmt: skip


@pytest.fixture
def report() -> StreamReport:
    return StreamReport(
        title="A <test> & a page",
        contract=Contract(max_quality_loss=0.05),
        days=tuple(a_day(d, e) for d, e in ((1, 1.0), (2, 0.5), (3, 0.3))),
        totals=Totals(
            requests=1200, teacher_call_rate=0.6, escalation_rate=0.55, system_accuracy=0.93,
            teacher_accuracy=0.935, student_accuracy=0.8, agreement=0.98, joint_risk=0.01,
            edge_p50_ms=0.9, bytes_shipped=12_000_000, seconds=12.5,
        ),
        nights=(
            NightLine(
                day=1, verdict="promote", reason="no worse", bundle="2" * 64, seconds=30.0,
                rows=400, bytes_shipped=9_000_000,
            ),
        ),
        lessons=(Lesson(text="<script>alert(1)</script>", label="refund", day=1),),
        facts=(("teacher", "MiniLM"),),
    )  # fmt: skip


def test_every_promised_field_is_in_the_json(report: StreamReport, tmp_path: Path) -> None:
    as_json, _ = write_report(report, tmp_path / "out")

    fields = json.loads(as_json.read_text())

    assert all(set(day) >= PROMISED_DAY for day in fields["days"])
    assert set(fields["totals"]) >= PROMISED_TOTALS


def test_the_page_fetches_nothing_and_escapes_what_people_wrote(
    report: StreamReport, tmp_path: Path
) -> None:
    _, as_html = write_report(report, tmp_path)

    page = as_html.read_text()

    assert "<script" not in page
    assert 3 == page.count('src="data:image/png;base64,')
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "A &lt;test&gt; &amp; a page" in page


def test_a_stream_without_gold_labels_still_has_a_page(
    report: StreamReport, tmp_path: Path
) -> None:
    blind = dataclasses.replace(
        report,
        days=tuple(
            dataclasses.replace(
                d, system_accuracy=None, teacher_accuracy=None, student_accuracy=None,
                joint_risk=None, agreement=None,
            )
            for d in report.days
        ),
        totals=dataclasses.replace(report.totals, system_accuracy=None, joint_risk=None),
    )  # fmt: skip

    _, as_html = write_report(blind, tmp_path)

    assert "n/a" in as_html.read_text()


def test_an_unwritable_folder_leaves_nothing_half_written(
    report: StreamReport, tmp_path: Path
) -> None:
    (tmp_path / "report.html").mkdir()

    with pytest.raises(OSError, match=r"report\.html"):
        write_report(report, tmp_path)

    assert {"report.html", "report.json"} == {p.name for p in tmp_path.iterdir()}
