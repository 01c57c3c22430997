"""What Prometheus reads: counters where things happen, gauges filled when somebody asks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.samples import Sample

from understudy.cloud.log import LogStats
from understudy.cloud.rollout_metrics import RolloutGauges, RolloutSurvey
from understudy.cloud.watch import BundleStanding
from understudy.types.errors import (
    AccessError,
    BundleError,
    DeadlineError,
    InvalidValueError,
    LinkError,
    OverloadedError,
    TeacherError,
)
from understudy.types.records import EscalationRecord
from understudy.types.release import NodeStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (DeadlineError, "deadline"),
    (OverloadedError, "overloaded"),
    (LinkError, "link_down"),
    (AccessError, "access_denied"),
    (BundleError, "not_found"),
    (InvalidValueError, "invalid"),
    (TeacherError, "teacher_failed"),
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def refusal_word(error: BaseException) -> str:
    """The one word for why something was refused; `internal` for what nobody foresaw."""
    return next((word for cls, word in _WORDS if isinstance(error, cls)), "internal")


class Metrics:
    """Every number of one gateway process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry, "namespace": "understudy"}
        self._calls = Counter("calls", "gRPC calls", ["method", "code"], **make)
        self._call_seconds = Histogram(
            "call_seconds", "Seconds of a gRPC call", ["method"], buckets=_SECONDS, **make
        )
        self._refusals = Counter("refusals", "Calls or records refused", ["reason"], **make)
        self._cuts = Counter("connections_cut", "Connections of flooding nodes ended", **make)
        self._records = Counter("records", "Records taken", ["task", "kind", "way"], **make)
        self._answers = Counter(
            "teacher_answers", "Labels the teacher gave to records", ["task", "way"], **make
        )
        self._cache = Counter("cache_lookups", "Exact-cache lookups", ["outcome"], **make)
        self._traffic = Counter(
            "requests", "Requests at the edge, as nodes report them", ["task", "outcome"], **make
        )
        self._teacher_seconds = Histogram(
            "teacher_seconds", "Seconds of a teacher call", buckets=_SECONDS, **make
        )
        self._teacher_inputs = Histogram(
            "teacher_inputs", "Inputs in a teacher call", buckets=_INPUTS, **make
        )
        self._teacher_failures = Counter(
            "teacher_failures", "Inputs the teacher failed on", ["reason"], **make
        )
        self._gauges = _Gauges(make)
        self._rollouts = RolloutGauges(make)
        # Finding a child by its labels costs more than counting; these are asked for by every call.
        self._call_children = functools.cache(
            lambda method, code: (
                self._calls.labels(method, code),
                self._call_seconds.labels(method),
            )
        )
        self._record_child = functools.cache(
            lambda task, kind, way: self._records.labels(task, kind.value, way)
        )

    def called(self, method: str, code: str, seconds: float) -> None:
        """One gRPC call has ended."""
        counter, histogram = self._call_children(method, code)
        counter.inc()
        histogram.observe(seconds)

    def refused(self, error: BaseException) -> None:
        """A call or a record was refused."""
        self._refusals.labels(refusal_word(error)).inc()

    def cut(self) -> None:
        """The connection of a flooding node was ended."""
        self._cuts.inc()

    def took(self, records: Iterable[EscalationRecord], way: str) -> None:
        """Records are durable; `way` is `predict` or `feedback`."""
        for record in records:
            self._record_child(record.task, record.kind, way).inc()

    def answered(self, task: str, way: str) -> None:
        """The teacher labelled a record: `predict` while a node asked, `label` afterwards."""
        self._answers.labels(task, way).inc()

    def looked_up(self, *, found: bool) -> None:
        """The exact cache was asked."""
        self._cache.labels("hit" if found else "miss").inc()

    def asked(self, inputs: int, seconds: float, failures: Sequence[BaseException]) -> None:
        """One call to the teacher has come back."""
        self._teacher_inputs.observe(inputs)
        self._teacher_seconds.observe(seconds)
        for failure in failures:
            self._teacher_failures.labels(refusal_word(failure)).inc()

    def checked_in(self, task: str, status: NodeStatus) -> None:
        """A node told how its requests went since it last did; `task` is one of ours."""
        counts = {
            "kept": status.kept,
            "escalated": status.escalated,
            "degraded": status.degraded,
            "audited": status.audits,
            "all": status.requests,
            "dropped": status.dropped_rows,
        }
        for outcome, count in counts.items():
            self._traffic.labels(task, outcome).inc(count)

    def totals(self, task: str) -> dict[str, float]:
        """For the operator's page: what nodes reported of a task, and what the teacher answered."""
        sums = {
            sample.labels["outcome"]: sample.value
            for sample in _counted(self._traffic)
            if sample.labels["task"] == task
        }
        answers = (s.value for s in _counted(self._answers) if s.labels["task"] == task)
        return sums | {"teacher_calls": sum(answers)}

    def refusals(self) -> dict[str, float]:
        """How often something was refused, by reason."""
        return {s.labels["reason"]: s.value for s in _counted(self._refusals)}

    def render(
        self,
        *,
        queue: int,
        teacher_up: bool,
        log: LogStats | None,
        standings: Mapping[str, BundleStanding],
        rollouts: RolloutSurvey,
    ) -> bytes:
        """The exposition text, with the gauges as they stand now."""
        self._gauges.queue.set(queue)
        self._gauges.teacher_up.set(teacher_up)
        self._gauges.set_log(log)
        self._gauges.set_standings(standings)
        self._rollouts.fill(rollouts)
        return generate_latest(self.registry)


def _counted(counter: Counter) -> list[Sample]:
    """A counter's values, without the times of their creation."""
    samples = next(iter(counter.collect())).samples
    return [sample for sample in samples if sample.name.endswith("_total")]


class _Gauges:
    """What is true at the moment of asking."""

    def __init__(self, make: dict[str, Any]) -> None:
        def gauge(name: str, says: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(name, says, labels, **make)

        self.queue = gauge("teacher_queue", "Inputs waiting for the teacher")
        self.teacher_up = gauge("teacher_up", "1 if the teacher can work")
        self.log_up = gauge("log_up", "1 if the log answers")
        self.log_rows = gauge("log_rows", "Rows in the log")
        self.log_unlabelled = gauge("log_unlabelled", "Rows without a teacher's label")
        self.log_lag = gauge("log_lag", "Rows a reader has not acknowledged", ["consumer"])
        self.dead_letters = gauge("log_dead_letters", "Rows no reader could take")
        self.revoked = gauge("certificate_revoked", "1 if withdrawn", ["task", "bundle"])
        self.standing = gauge("certificate_standing", "1 by state", ["bundle", "standing"])
        self.risk = gauge("risk_upper_bound", "Bound proved at night", ["task", "bundle"])
        self.drift = gauge("drift_level", "1 is an alarm", ["task", "bundle"])
        self.night = gauge("night_wanted", "1 if a night is asked for", ["task", "bundle"])
        of_slice = ["task", "bundle", "slice"]
        self.slice_revoked = gauge("slice_certificate_revoked", "1 if withdrawn", of_slice)
        self.slice_drift = gauge("slice_drift_level", "1 is an alarm", of_slice)

    def set_log(self, stats: LogStats | None) -> None:
        self.log_up.set(stats is not None)
        if stats is None:
            return
        self.log_rows.set(stats.rows)
        self.log_unlabelled.set(stats.unlabelled)
        self.dead_letters.set(stats.dead_letters)
        for consumer, lag in stats.lag.items():
            self.log_lag.labels(consumer).set(lag)

    def set_standings(self, standings: Mapping[str, BundleStanding]) -> None:
        whole = (self.revoked, self.standing, self.risk, self.drift, self.night)
        for gauge in (*whole, self.slice_revoked, self.slice_drift):
            gauge.clear()
        for bundle, standing in standings.items():
            self.standing.labels(bundle, standing.standing).set(1)
            self.revoked.labels(standing.task, bundle).set(standing.certificate_revoked)
            self.risk.labels(standing.task, bundle).set(standing.risk_upper_bound)
            self.drift.labels(standing.task, bundle).set(standing.drift)
            self.night.labels(standing.task, bundle).set(standing.night)
            for part in standing.slices:
                names = (standing.task, bundle, part.name)
                self.slice_revoked.labels(*names).set(part.certificate_revoked)
                self.slice_drift.labels(*names).set(part.drift)
