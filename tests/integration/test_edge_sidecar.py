"""Rules of the sidecar: same answers over HTTP and gRPC, one sentence for a caller's slip."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from simulators.bundles import build_bundle
from simulators.edge_gateway import EdgeGateway, wait_until
from understudy.edge import AsyncEdgeClient, EdgeClient, EdgeConfig
from understudy.edge.config import AuditConfig, GatewayConfig, SidecarConfig
from understudy.edge.sidecar import Sidecar
from understudy.types.errors import ConfigError
from understudy.wire.v1 import edge_pb2, edge_pb2_grpc

SURE = "the machine swallowed my card"
FREE = SidecarConfig(http_port=0, grpc_port=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "b"
    build_bundle(directory)
    return directory


@asynccontextmanager
async def running(config: EdgeConfig) -> AsyncIterator[tuple[Sidecar, httpx.AsyncClient]]:
    async with AsyncEdgeClient.open(config) as client, Sidecar(client, config) as sidecar:
        base = f"http://127.0.0.1:{sidecar.http_port}"
        async with httpx.AsyncClient(base_url=base, timeout=20) as http:
            yield sidecar, http


def with_sidecar(
    config: EdgeConfig, test: Callable[[Sidecar, httpx.AsyncClient], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with running(config) as (sidecar, http):
            await test(sidecar, http)

    asyncio.run(main())


def test_http_gives_the_answers_of_the_embedded_client(bundle: Path) -> None:
    """A product in another language must not get other answers."""
    with EdgeClient.open(bundle) as client:
        wanted = client.predict(SURE)

    async def test(_: Sidecar, http: httpx.AsyncClient) -> None:
        one = (await http.post("/v1/predict", json={"text": SURE})).json()
        many = (await http.post("/v1/predict_many", json={"texts": [SURE, ""]})).json()["answers"]
        assert (one["label"], one["source"], one["bundle"]) == (
            wanted.label,
            "student",
            wanted.bundle,
        )
        assert abs(one["confidence"] - wanted.confidence) < 1e-9
        assert [a["reason"] for a in many] == ["confident", "empty_input"]

    with_sidecar(EdgeConfig(bundle=str(bundle), sidecar=FREE), test)


def test_grpc_gives_the_same_and_is_healthy(bundle: Path) -> None:
    """Loopback, with the standard health service."""

    async def test(sidecar: Sidecar, _: httpx.AsyncClient) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            stub: Any = edge_pb2_grpc.EdgeServiceStub(channel)
            one = (await stub.Answer(edge_pb2.AnswerRequest(text=SURE), timeout=20)).answer
            batch = await stub.AnswerBatch(
                edge_pb2.AnswerBatchRequest(texts=[SURE, "x"]), timeout=20
            )
            assert (one.label, one.certified, len(batch.answers)) == ("card", True, 2)
            assert one.scores[0].label == "card"
            options = edge_pb2.AnswerOptions(mode="later")
            with pytest.raises(grpc.aio.AioRpcError, match="mode must be one of"):
                await stub.Answer(edge_pb2.AnswerRequest(text="x", options=options), timeout=20)
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="understudy.wire.v1.EdgeService")
            state = await health.Check(request, timeout=20)
            assert state.status == health_pb2.HealthCheckResponse.SERVING

    with_sidecar(EdgeConfig(bundle=str(bundle), sidecar=FREE), test)


SLIPS: list[tuple[bytes, int, str]] = [
    (b"{", 400, "not valid JSON"),
    (b"[]", 400, "must be a JSON object"),
    (b"{}", 400, "'text' must be a string"),
    (b'{"text": 1}', 400, "'text' must be a string"),
    (b'{"text": "a", "txt": 1}', 400, "unknown field 'txt'"),
    (b'{"text": "a", "mode": "later"}', 400, "mode must be one of"),
    (b'{"text": "a", "deadline_ms": "soon"}', 400, "deadline_ms"),
    (b'{"text": "a", "deadline_ms": -1}', 400, "deadline_ms must be positive"),
    (b"[" * 200_000, 400, "not valid JSON"),
    (b" " * (5 << 20), 413, "larger than"),
]


def test_a_callers_slip_is_one_sentence(bundle: Path) -> None:
    """And never a stack trace."""

    async def test(_: Sidecar, http: httpx.AsyncClient) -> None:
        for body, code, message in SLIPS:
            response = await http.post("/v1/predict", content=body)
            assert (response.status_code, message in response.json()["error"]) == (code, True)
        many = await http.post("/v1/predict_many", json={"texts": ["a"] * 1025})
        assert "1024" in many.json()["error"]

    with_sidecar(EdgeConfig(bundle=str(bundle), sidecar=FREE), test)


def test_status_health_metrics_and_description_are_there(bundle: Path) -> None:
    """What an orchestrator and a dashboard ask for."""

    async def test(_: Sidecar, http: httpx.AsyncClient) -> None:
        await http.post("/v1/predict", json={"text": SURE})
        status = (await http.get("/v1/status")).json()
        assert (status["task"], status["requests"]) == ("support", 1)
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json()["bundle"] == status["bundle"]
        metrics = (await http.get("/metrics")).text
        line = 'understudy_edge_answers_total{reason="confident",source="student"} 1.0'
        assert line in metrics
        assert 'understudy_edge_answer_seconds_bucket{le="+Inf"} 1.0' in metrics
        described = (await http.get("/openapi.json")).json()
        for path, methods in described["paths"].items():
            method = next(iter(methods)).upper()
            assert (await http.request(method, path, json={})).status_code in {200, 400}

    with_sidecar(EdgeConfig(bundle=str(bundle), sidecar=FREE), test)


def test_a_foreign_host_name_is_refused(bundle: Path) -> None:
    """A web page may rebind its name to 127.0.0.1; its Host header gives it away."""

    async def test(_: Sidecar, http: httpx.AsyncClient) -> None:
        headers = {"host": "evil.example"}
        response = await http.post("/v1/predict", json={"text": "x"}, headers=headers)
        assert response.status_code == 400

    with_sidecar(EdgeConfig(bundle=str(bundle), sidecar=FREE), test)


def test_the_trace_reaches_the_teacher(bundle: Path) -> None:
    """One trace from the product's request to the teacher's answer."""
    with EdgeGateway() as gateway:
        config = EdgeConfig(
            bundle=str(bundle), sidecar=FREE, audit=AuditConfig(rate=1e-9), deadline_ms=5000,
            gateway=GatewayConfig(address=gateway.address),
        )  # fmt: skip

        async def test(_: Sidecar, http: httpx.AsyncClient) -> None:
            trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            headers = {"traceparent": trace}
            answer = await http.post("/v1/predict", json={"text": "qqq"}, headers=headers)
            assert answer.json()["source"] == "teacher"
            assert gateway.metadata["Predict"]["traceparent"] == trace
            gone = await http.post("/v1/forget", json={"subject": "anna"})
            assert gone.json() == {"forgotten": 0}

        with_sidecar(config, test)


def test_a_port_in_use_names_the_key_to_change(bundle: Path) -> None:
    """Two sidecars on one machine is the usual slip."""

    async def main() -> None:
        config = EdgeConfig(bundle=str(bundle), sidecar=FREE)
        async with running(config) as (sidecar, _):
            both = ((sidecar.http_port, -1, "http"), (-1, sidecar.grpc_port, "grpc"))
            for http_port, grpc_port, key in both:
                taken = SidecarConfig(http_port=http_port, grpc_port=grpc_port)
                with pytest.raises(ConfigError, match=f"set sidecar.{key}_port to another port"):
                    async with running(EdgeConfig(bundle=str(bundle), sidecar=taken)):
                        pass

    asyncio.run(main())


_SERVE = """
import sys
sys.path[:0] = {path!r}
from understudy.edge.sidecar import serve
serve({config!r}, lambda sidecar: print(sidecar.http_port, flush=True))
print("ended", flush=True)
"""


def test_sigterm_ends_the_sidecar_in_order(bundle: Path, tmp_path: Path) -> None:
    """An orchestrator stops it every day."""
    config = tmp_path / "edge.yaml"
    config.write_text(f"bundle: {bundle}\nsidecar: {{http_port: 0, grpc_port: 0}}\n")
    code = _SERVE.format(path=sys.path, config=str(config))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    port = int(child.stdout.readline())
    wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200)
    os.kill(child.pid, signal.SIGTERM)
    out, _ = child.communicate(timeout=60)

    assert (child.returncode, out) == (0, "ended\n")


def test_counters_reach_the_products_own_opentelemetry(bundle: Path) -> None:
    """Through the meter it gives us; the global one stays untouched."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from understudy.edge.exporters import instrument

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with EdgeClient.open(bundle) as client:
        instrument(client.runtime, provider.get_meter("product"))
        client.predict(SURE)
        data = reader.get_metrics_data()
    provider.shutdown()

    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    found: dict[str, Any] = {m.name: list(m.data.data_points) for m in metrics}
    assert found["understudy.edge.answers"][0].attributes == {
        "source": "student",
        "reason": "confident",
    }
    assert {"understudy.edge.spool.rows", "understudy.edge.latency"} <= found.keys()
