"""OpenTelemetry at the gateway: the node's trace goes on in each call and reaches the teacher.

Off unless an endpoint is named; then spans go out over OTLP in batches, beside the calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from understudy.types.errors import ConfigError

TRACEPARENT = "traceparent"
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Spans of the gateway, sent by one exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "understudy-gateway"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("understudy.cloud")

    @contextlib.contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[Callable[[str], None]]:
        """The span of one gRPC call, child of the node's; gives a way to name its status."""
        parent = _propagator.extract(dict(metadata))
        name = method.lstrip("/")
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER) as span:
            span.set_attribute("rpc.system", "grpc")

            def ended(code: str) -> None:
                span.set_attribute("rpc.grpc.status_code", code)
                if code != "OK":
                    span.set_status(Status(StatusCode.ERROR, code))

            yield ended

    def close(self) -> None:
        """Sends what is left and stops."""
        self._provider.shutdown()


def current_traceparent() -> str:
    """W3C `traceparent` of the span in progress; empty when there is none."""
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        _propagator.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to an OTLP/HTTP endpoint such as `http://127.0.0.1:4318`.

    Raises:
        ConfigError: If the exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            "tracing needs the exporter: pip install opentelemetry-exporter-otlp-proto-http"
        ) from error
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
