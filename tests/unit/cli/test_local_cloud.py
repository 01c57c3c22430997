"""The cloud without a network: what the gateway promises, and a budget that is never exceeded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.cli.local_cloud import LocalCloud
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.teacher.replay import ReplayEngine
from understudy.edge.ids import new_request_id
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import OverloadedError
from understudy.types.records import EscalationRecord, TeacherLabel

SAID = {"a": {"x": 1.0}, "b": {"y": 1.0}, "c": {"x": 1.0}}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


@pytest.fixture
def cloud(log: SqliteLog) -> Iterator[LocalCloud]:
    cloud = LocalCloud(ReplayEngine(SAID), log, calls=2)
    cloud.start()
    yield cloud
    cloud.close()


def record(text: str, kind: RecordKind = RecordKind.ESCALATION) -> EscalationRecord:
    return EscalationRecord(
        event_id=new_request_id(),
        task="classify",
        bundle="b",
        text=text,
        top=(),
        confidence=0.1,
        threshold=NEVER_KEEP,
        kind=kind,
        coin=kind is RecordKind.AUDIT,
        audit_rate=0.1,
        propensity=1.0,
        created_unix_s=1.0,
    )


def test_calls_beyond_the_budget_are_refused_and_logged_without_a_label(
    cloud: LocalCloud, log: SqliteLog
) -> None:
    outcomes = cloud.predict_batch([record("a"), record("b"), record("c")], 5.0)

    assert [TeacherLabel, TeacherLabel, OverloadedError] == [type(o) for o in outcomes]
    assert [True, True, False] == [row.teacher is not None for row in log.scan()]


def test_an_answer_that_is_in_the_log_costs_nothing_a_second_time(cloud: LocalCloud) -> None:
    again = record("a")
    for _ in range(3):
        assert "x" == cloud.predict(again, 5.0).label

    assert "y" == cloud.predict(record("b"), 5.0).label


def test_audits_and_nights_draw_on_the_same_budget(cloud: LocalCloud, log: SqliteLog) -> None:
    cloud.report([record("a", RecordKind.AUDIT)], 5.0)

    found = cloud.label(["b", "c"], ())

    assert ["y", None] == [label and label.label for label in found]
    cloud.report([record("c", RecordKind.AUDIT)], 5.0)
    assert [True, False] == [row.teacher is not None for row in log.scan()]


def test_what_the_report_wants_to_know_is_not_counted(cloud: LocalCloud) -> None:
    assert 30 == len(cloud.score(["a", "b", "c"] * 10))
    assert "x" == cloud.predict(record("a"), 5.0).label


def test_a_teacher_that_cannot_write_is_not_charged_for_it(cloud: LocalCloud) -> None:
    assert [] == cloud.write(["say something"] * 5)
    assert "x" == cloud.predict(record("a"), 5.0).label
