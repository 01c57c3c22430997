"""The arithmetic of the report: shares are of requests, and unknown stays unknown."""

from __future__ import annotations

import math

import pytest

from understudy.cli.days import Observation, day_report, percentile, totals
from understudy.types.answer import Answer, Source
from understudy.types.decision import Reason


def seen(
    label: str,
    *,
    teacher: str = "t",
    gold: str = "t",
    source: Source = Source.STUDENT,
    degraded: bool = False,
    audited: bool = False,
    reason: Reason = Reason.CONFIDENT,
) -> Observation:
    answer = Answer(
        label=label,
        confidence=0.5,
        source=source,
        certified=not degraded,
        degraded=degraded,
        reason=reason,
        bundle="b",
        latency_ms=1.0,
    )
    asked = audited or source is Source.TEACHER
    return Observation(
        answer=answer, gold=gold, teacher=teacher, student="s", audited=audited, asked=asked
    )


def test_joint_risk_counts_only_kept_answers_that_differ_from_the_teacher() -> None:
    rows = [
        seen("t"),
        seen("x"),
        seen("x", degraded=True),
        seen("t", source=Source.TEACHER),
    ]

    report = day_report(1, rows, threshold=0.5, certified=True, bundle="b")

    assert 0.25 == report.joint_risk
    assert 0.5 == report.kept_rate
    assert 0.25 == report.escalation_rate
    assert 0.25 == report.degraded_rate


def test_what_is_kept_for_want_of_budget_is_a_risk_taken_and_voids_the_certificate() -> None:
    spent = seen("x", degraded=True, reason=Reason.NO_BUDGET)
    away = seen("x", degraded=True, reason=Reason.LINK_DOWN)

    with_spent = day_report(1, [seen("t"), spent], threshold=0.5, certified=True, bundle="b")
    with_away = day_report(1, [seen("t"), away], threshold=0.5, certified=True, bundle="b")

    assert (0.5, 1.0, False) == (
        with_spent.joint_risk,
        with_spent.kept_rate,
        with_spent.certified,
    )
    assert (0.0, 0.5, True) == (with_away.joint_risk, with_away.kept_rate, with_away.certified)


def test_a_teacher_call_is_counted_once_though_audited_and_escalated() -> None:
    rows = [seen("t", audited=True, source=Source.TEACHER), seen("t", audited=True), seen("t")]

    assert (
        pytest.approx(2 / 3)
        == totals(rows, night_calls=0, bytes_shipped=0, seconds=1.0).teacher_call_rate
    )
    assert 1.0 == totals(rows, night_calls=1, bytes_shipped=0, seconds=1.0).teacher_call_rate


def test_what_is_not_known_is_reported_as_none() -> None:
    report = day_report(
        1, [seen("t", gold="", teacher="")], threshold=math.inf, certified=False, bundle="b"
    )

    assert (None, None, None, None) == (
        report.system_accuracy,
        report.teacher_accuracy,
        report.joint_risk,
        report.threshold,
    )


def test_percentiles_are_nearest_rank() -> None:
    assert [2.0, 4.0, 1.0, 0.0] == [
        percentile([4.0, 1.0, 3.0, 2.0], 0.5),
        percentile([4.0, 1.0, 3.0, 2.0], 0.99),
        percentile([1.0], 0.01),
        percentile([], 0.5),
    ]
