"""OpenTelemetry at gateway and replica: the node's trace goes on in each call, up to the model.

Off unless an endpoint is named; then spans go out over OTLP in batches, beside the calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from understudy.cloud.serve_options import TRACES_VARIABLE
from understudy.types.errors import ConfigError

TRACEPARENT = "traceparent"
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Spans of one service, sent by one exporter."""

    def __init__(self, exporter: SpanExporter, service: str = "understudy-gateway") -> None:
        resource = Resource.create({"service.name": service})
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

    @contextlib.contextmanager
    def each(self, name: str, parents: Sequence[str]) -> Iterator[list[str]]:
        """A span for each input of a call, child of its own trace; gives their `traceparent`s.

        An input without a trace (an empty parent) gets none.
        """
        spans = [self._child(name, parent, len(parents)) if parent else None for parent in parents]
        try:
            yield [_traceparent(span) if span else "" for span in spans]
        finally:
            for span in spans:
                if span:
                    span.end()

    def _child(self, name: str, parent: str, inputs: int) -> trace.Span:
        context = _propagator.extract({TRACEPARENT: parent})
        return self._tracer.start_span(
            name, context, SpanKind.SERVER, attributes={"understudy.inputs": inputs}
        )

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], service: str) -> Self | None:
        """Tracing to the endpoint that the environment names; None where it names none."""
        endpoint = environment.get(TRACES_VARIABLE, "")
        return cls(otlp_exporter(endpoint), service) if endpoint else None

    def close(self) -> None:
        """Sends what is left and stops."""
        self._provider.shutdown()


def current_traceparent() -> str:
    """W3C `traceparent` of the span in progress; empty when there is none."""
    return _traceparent(trace.get_current_span())


def _traceparent(span: trace.Span) -> str:
    carrier: dict[str, str] = {}
    if span.get_span_context().is_valid:
        _propagator.inject(carrier, trace.set_span_in_context(span))
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
