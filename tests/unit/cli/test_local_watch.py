"""The watch of a simulation: only certificates are watched, and only what is in the log counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.bundles import build_bundle
from simulators.cloud_gateway import label, record
from understudy.cli.local_watch import LocalWatch
from understudy.cloud.log import NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.edge.bundle import read_bundle
from understudy.types.contract import Contract
from understudy.types.decision import RecordKind
from understudy.types.records import LabelScore
from understudy.types.release import Directive, NodeStatus

TASK = "support"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


@pytest.fixture
def watch(tmp_path: Path, log: SqliteLog) -> Iterator[LocalWatch]:
    watch = LocalWatch(log, tmp_path / "watch.db", TASK, Contract())
    yield watch
    watch.close()


def wrong_answers(log: SqliteLog, bundle: str, count: int) -> None:
    """Audited answers of the student's that the teacher would not have given."""
    kept = record(
        bundle=bundle, kind=RecordKind.AUDIT, coin=True, confidence=0.9, threshold=0.5,
        audit_rate=0.1, propensity=0.1, top=(LabelScore("address_change", 0.9),),
    )  # fmt: skip
    log.append(
        [NewRow(replace(kept, event_id=record().event_id), label("refund")) for _ in range(count)]
    )


def orders(watch: LocalWatch, bundle: str) -> Directive:
    return watch.check_in(NodeStatus(task=TASK, bundle=bundle))


def test_wrong_answers_withdraw_the_certificate_and_are_remembered_for_the_night(
    tmp_path: Path, log: SqliteLog, watch: LocalWatch
) -> None:
    student = build_bundle(tmp_path / "student", task=TASK)
    watch.release(tmp_path / "student")

    before = orders(watch, student)
    wrong_answers(log, student, 40)
    after = orders(watch, student)

    assert watch.watches(student)
    assert Directive() == before
    assert after.certificate_revoked
    assert 0 < watch.changes()[""] <= 40


def test_the_next_student_begins_without_orders(
    tmp_path: Path, log: SqliteLog, watch: LocalWatch
) -> None:
    first = build_bundle(tmp_path / "first", task=TASK)
    second = build_bundle(tmp_path / "second", task=TASK, seed=1)
    for name in ("first", "second"):
        watch.release(tmp_path / name)

    wrong_answers(log, first, 40)

    assert orders(watch, first).certificate_revoked
    assert Directive() == orders(watch, second)


def test_a_student_that_was_never_certified_has_nothing_to_lose(
    tmp_path: Path, log: SqliteLog, watch: LocalWatch
) -> None:
    student = build_bundle(tmp_path / "student", task=TASK, certified=False)
    watch.release(tmp_path / "student")

    wrong_answers(log, student, 40)

    assert not read_bundle(tmp_path / "student").certificate.certified
    assert not watch.watches(student)
    assert Directive() == orders(watch, student)
