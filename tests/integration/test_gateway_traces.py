"""One trace from the edge through the gateway to the teacher, sent to a real collector's port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from simulators.cloud_gateway import config, record, running_cloud, wait_until
from understudy.types.convert import record_to_wire
from understudy.wire.v1 import inference_pb2, inference_pb2_grpc

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.spans: dict[str, tuple[str, str]] = {}


class _Taker(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            data = gzip.decompress(data)
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.spans[span.name] = (span.trace_id.hex(), span.span_id.hex())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_edges_trace_reaches_teacher_and_collector(
    tmp_path: Path, collector: Collector
) -> None:
    """An operator follows one slow answer through all three places."""
    settings = config(tmp_path, tracing=f"http://127.0.0.1:{collector.server_port}")
    with running_cloud(settings) as cloud:
        with cloud.badge().channel(cloud.address) as channel:
            message = inference_pb2.PredictRequest(record=record_to_wire(record()))
            inference_pb2_grpc.InferenceServiceStub(channel).Predict(
                message,
                timeout=10,
                metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),),
            )
        ((request,),) = cloud.teacher.calls

    name = "understudy.wire.v1.InferenceService/Predict"
    wait_until(lambda: name in collector.spans)
    trace, span = collector.spans[name]
    assert (TRACE, f"00-{TRACE}-{span}-01") == (trace, request.trace)
