"""What a client counts, for Prometheus and for OpenTelemetry: extras, and nothing global."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from understudy.edge.telemetry import BOUNDS_MS, Histogram
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.edge.runtime import Runtime


def prometheus_text(runtime: Runtime) -> bytes:
    """The client's metrics in Prometheus's text format.

    Raises:
        ConfigError: If the extra `prometheus` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ModuleNotFoundError as error:
        raise ConfigError("metrics need the extra: pip install 'understudy[prometheus]'") from error
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(runtime))
    return generate_latest(registry)


class PrometheusCollector:
    """A collector to register with the product's own registry."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Any]:
        """The families, read now."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        counted, loaded = self._runtime.telemetry.snapshot(), self._runtime.loaded
        answers = CounterMetricFamily(
            "understudy_edge_answers", "Answers by source and reason.", labels=["source", "reason"]
        )
        for (source, reason), count in counted.answers.items():
            answers.add_metric([source.value, reason.value], count)
        faults = CounterMetricFamily(
            "understudy_edge_faults", "What went wrong on the side.", labels=["kind"]
        )
        for kind, count in counted.faults.items():
            faults.add_metric([kind.value], count)
        yield from (answers, faults)
        yield CounterMetricFamily(
            "understudy_edge_audits", "Audit coins that fell.", value=counted.audits
        )
        for name, found in (("answer", counted.latency), ("student", counted.student)):
            family = HistogramMetricFamily(f"understudy_edge_{name}_seconds", "Time taken.")
            family.add_metric([], buckets=_buckets(found), sum_value=found.total_ms / 1000)
            yield family
        yield GaugeMetricFamily(
            "understudy_edge_spool_rows", "Records waiting.", value=self._runtime.uploader.waiting()
        )
        yield GaugeMetricFamily(
            "understudy_edge_certified",
            "1 while a certificate covers what is kept.",
            value=float(loaded.policy.certified and not loaded.policy.revoked),
        )


def instrument(runtime: Runtime, meter: Any) -> None:  # noqa: ANN401 - opentelemetry.metrics.Meter, an extra
    """Publishes the client's counters through the product's own OpenTelemetry meter.

    Args:
        runtime: `client.runtime`.
        meter: As from `opentelemetry.metrics.get_meter`; the global one is never touched.
    """
    from opentelemetry.metrics import Observation

    def answers(_: object) -> Iterable[Any]:
        for (source, reason), count in runtime.telemetry.snapshot().answers.items():
            yield Observation(count, {"source": source.value, "reason": reason.value})

    def faults(_: object) -> Iterable[Any]:
        for kind, count in runtime.telemetry.snapshot().faults.items():
            yield Observation(count, {"kind": kind.value})

    def waiting(_: object) -> Iterable[Any]:
        yield Observation(runtime.uploader.waiting())

    def quantiles(_: object) -> Iterable[Any]:
        latency = runtime.telemetry.snapshot().latency
        for share in (0.5, 0.99):
            yield Observation(latency.quantile(share) / 1000, {"quantile": str(share)})

    meter.create_observable_counter("understudy.edge.answers", [answers])
    meter.create_observable_counter("understudy.edge.faults", [faults])
    meter.create_observable_gauge("understudy.edge.spool.rows", [waiting])
    meter.create_observable_gauge("understudy.edge.latency", [quantiles], unit="s")


def _buckets(found: Histogram) -> list[tuple[str, float]]:
    bounds = [str(bound / 1000) for bound in BOUNDS_MS] + ["+Inf"]
    sums = accumulate(float(count) for count in found.counts)
    return list(zip(bounds, sums, strict=True))
