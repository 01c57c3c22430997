"""Numbers an operator relies on, and traces that hold together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from simulators.cloud_gateway import TASK, record
from understudy.cloud.log import LogStats
from understudy.cloud.metrics import Metrics, refusal_word
from understudy.cloud.rollout_metrics import RolloutSurvey
from understudy.cloud.tracing import Tracing, current_traceparent
from understudy.cloud.watch import BundleStanding, SliceStanding
from understudy.types.errors import (
    AccessError,
    BundleError,
    DeadlineError,
    DigestError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
)
from understudy.types.release import NodeStatus, SliceOrder

STANDING = BundleStanding(
    bundle="b", task=TASK, standing="revoked", certificate_revoked=True, threshold_floor=None,
    audit_rate=0.2, night=True, drift=1.5, rows=40, threshold=0.8, risk_upper_bound=0.015,
    slices=tuple(
        SliceStanding(
            name=name, standing=standing, certificate_revoked=standing == "revoked",
            threshold_floor=None, drift=0.25, rows=9, threshold=0.9,
        )
        for name, standing in (("legal", "revoked"), ("billing", "live"))
    ),
)  # fmt: skip


def samples(metrics: Metrics, log: LogStats | None = None) -> dict[str, float]:
    """Every sample by name and labels, read back by Prometheus's own parser."""
    text = metrics.render(
        queue=3, teacher_up=True, log=log, standings={"b": STANDING}, rollouts=RolloutSurvey()
    ).decode()
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (DeadlineError("x"), "deadline"),
        (OverloadedError("x"), "overloaded"),
        (LinkDownError("x"), "link_down"),
        (AccessError("x"), "access_denied"),
        (DigestError("x"), "not_found"),
        (BundleError("x"), "not_found"),
        (InvalidValueError("x"), "invalid"),
        (TeacherError("x"), "teacher_failed"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_each_refusal_has_one_word(error: Exception, word: str) -> None:
    """A closed set: an alert can name them all."""
    assert word == refusal_word(error)


def test_everything_an_operator_asks_for_is_there() -> None:
    """Calls, records, teacher, log, contract and rollout in one page."""
    metrics = Metrics()
    metrics.called("Predict", "OK", 0.004)
    metrics.refused(OverloadedError("x"))
    metrics.took([record()], "predict")
    metrics.looked_up(found=True)
    metrics.answered(TASK, "label")
    metrics.asked(5, 0.01, [TeacherError("x")])
    metrics.checked_in(TASK, NodeStatus(task=TASK, bundle="b", requests=10, kept=9, escalated=1))

    found = samples(metrics, LogStats(7, 2, 9, {"night": 4}, 1))

    expected = {
        "understudy_calls_total[('code', 'OK'), ('method', 'Predict')]": 1,
        "understudy_refusals_total[('reason', 'overloaded')]": 1,
        "understudy_records_total[('kind', 'escalation'), ('task', 'support'), "
        "('way', 'predict')]": 1,
        "understudy_teacher_answers_total[('task', 'support'), ('way', 'label')]": 1,
        "understudy_cache_lookups_total[('outcome', 'hit')]": 1,
        "understudy_teacher_inputs_sum[]": 5,
        "understudy_teacher_failures_total[('reason', 'teacher_failed')]": 1,
        "understudy_requests_total[('outcome', 'kept'), ('task', 'support')]": 9,
        "understudy_teacher_queue[]": 3,
        "understudy_log_lag[('consumer', 'night')]": 4,
        "understudy_log_dead_letters[]": 1,
        "understudy_certificate_revoked[('bundle', 'b'), ('task', 'support')]": 1,
        "understudy_night_wanted[('bundle', 'b'), ('task', 'support')]": 1,
        "understudy_risk_upper_bound[('bundle', 'b'), ('task', 'support')]": 0.015,
        "understudy_slice_certificate_revoked[('bundle', 'b'), ('slice', 'legal'), "
        "('task', 'support')]": 1,
        "understudy_slice_certificate_revoked[('bundle', 'b'), ('slice', 'billing'), "
        "('task', 'support')]": 0,
        "understudy_slice_drift_level[('bundle', 'b'), ('slice', 'legal'), "
        "('task', 'support')]": 0.25,
    }
    assert expected == {key: found.get(key) for key in expected}


def test_a_log_that_is_away_is_a_number_too() -> None:
    """An alert needs a zero, not a hole."""
    assert 0 == samples(Metrics())["understudy_log_up[]"]


def test_totals_are_of_one_task_and_count_what_was_labelled_later() -> None:
    """What the operator's page shows: an audit costs a call as well."""
    metrics = Metrics()
    status = NodeStatus(task=TASK, bundle="b", requests=10, kept=8, escalated=1, degraded=1)
    for task in (TASK, TASK, "other"):
        metrics.checked_in(task, replace(status, task=task))
    for task, way in ((TASK, "predict"), (TASK, "predict"), (TASK, "label"), ("other", "label")):
        metrics.answered(task, way)

    totals = metrics.totals(TASK)

    assert (20, 16, 2, 3) == (
        totals["all"],
        totals["kept"],
        totals["degraded"],
        totals["teacher_calls"],
    )


def test_an_infinite_floor_survives_the_shared_state() -> None:
    """JSON has no infinity; the node must still hear: keep nothing."""
    assert math.inf == STANDING.advice.threshold_floor
    assert (SliceOrder("legal", math.inf),) == STANDING.advice.revoked_slices


def test_the_nodes_trace_goes_on_and_reaches_the_teacher() -> None:
    """One trace from edge to replica: same trace id, our span as the parent."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    incoming = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}

    with tracing.call("/a.B/Predict", incoming) as ended:
        handed_on = current_traceparent()
        ended("RESOURCE_EXHAUSTED")
    tracing.close()

    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert (trace_id, "b7ad6b7169203331") == (
        f"{span.context.trace_id:032x}",
        f"{span.parent.span_id:016x}",
    )
    assert f"00-{trace_id}-{span.context.span_id:016x}-01" == handed_on
    assert "RESOURCE_EXHAUSTED" == (span.attributes or {})["rpc.grpc.status_code"]


def test_without_a_span_there_is_no_trace_to_hand_on() -> None:
    """An empty word, not a made-up id."""
    assert "" == current_traceparent()
