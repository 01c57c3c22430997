"""One trace from the edge through the gateway to the teacher, sent to a real collector's port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from simulators.cloud_gateway import config, record, running_cloud, wait_until
from understudy.cloud.config import read_config
from understudy.cloud.serve_app import TeacherDeployment
from understudy.cloud.teacher import ScoreRequest
from understudy.cloud.teacher.payload import request_to_plain
from understudy.cloud.teacher.spec import Engine, TeacherSpec, spec_to_plain
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


async def test_the_trace_goes_on_in_the_replica(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One span for each input of a gathered call, in the trace of its own node."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    recordings = tmp_path / "answers.jsonl"
    recordings.write_text(json.dumps({"text": "hi", "teacher_probs": {"a": 0.9, "b": 0.1}}))
    spec = TeacherSpec(engine=Engine.REPLAY, recordings=str(recordings))
    replica = TeacherDeployment(spec_to_plain(spec))
    await replica.start()
    asked = [ScoreRequest(text="hi", trace=f"00-{TRACE}-b7ad6b7169203331-01")]
    asked += [ScoreRequest(text="hi")]
    answers = await replica.score_labels([request_to_plain(one) for one in asked])
    await replica.stop()

    assert ["a", "a"] == [answer["labels"][0] for answer in answers]
    assert {"teacher.score_labels": TRACE} == {k: v[0] for k, v in collector.spans.items()}


def test_replicas_send_their_spans_where_the_gateway_does(tmp_path: Path) -> None:
    """The operator names the collector once."""
    text = "tasks: {t: {labels: [a, b]}}\ntracing: http://collector:4318\nserve: {app: x}\n"
    told = read_config(text, source="cloud.yaml", folder=tmp_path)
    own = "serve: {environment: {OTEL_EXPORTER_OTLP_ENDPOINT: http://else:1}}\n"
    kept = read_config(text.replace("serve: {app: x}\n", own), source="c", folder=tmp_path)

    assert told.serve is not None
    assert kept.serve is not None
    assert {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"} == told.serve.environment
    assert {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://else:1"} == kept.serve.environment
