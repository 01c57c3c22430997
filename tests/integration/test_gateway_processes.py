"""Gateways as processes: asked to stop, killed, several at once over the same state."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest

from simulators.cloud_gateway import LABELS, TASK, Badge, event_id, record, wait_until
from simulators.cloud_redis import DURABLE, RedisProcess
from simulators.gateway_process import TEXTS, Process, make_badge, write_config
from understudy.cloud.parts import open_enrolment, open_log, open_state
from understudy.cloud.process import read_state_file
from understudy.types.convert import record_to_wire
from understudy.wire.v1 import inference_pb2, inference_pb2_grpc


class Caller(threading.Thread):
    """A node that asks on and on, and remembers what was acknowledged."""

    def __init__(self, address: Callable[[], str], badge: Badge) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._badge = badge
        self.acknowledged: list[str] = []
        self.failures = 0
        self.halt = threading.Event()

    def run(self) -> None:
        texts = itertools.cycle(TEXTS)
        while not self.halt.is_set():
            with self._badge.channel(self._address()) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                with contextlib.suppress(grpc.RpcError):
                    while not self.halt.is_set():
                        self._ask(stub, next(texts))
                self.failures += 1

    def _ask(self, stub: inference_pb2_grpc.InferenceServiceStub, text: str) -> None:
        made = replace(record(text=text), event_id=event_id())
        stub.Predict(inference_pb2.PredictRequest(record=record_to_wire(made)), timeout=5)
        self.acknowledged.append(made.event_id)


@contextlib.contextmanager
def calling(*callers: Caller) -> Iterator[None]:
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        for caller in callers:
            caller.halt.set()
        for caller in callers:
            caller.join(30)


def test_a_gateway_asked_to_stop_finishes_what_it_has(tmp_path: Path) -> None:
    """A rolling update must not cost a single answer: SIGTERM drains, then exits with 0."""
    path = write_config(tmp_path)
    with Process(path) as gateway:
        address = gateway.running.address
        callers = [Caller(lambda: address, make_badge(gateway.config, f"n{i}")) for i in range(2)]
        with calling(*callers):
            wait_until(lambda: min(len(c.acknowledged) for c in callers) > 20)
            code = gateway.stop(signal.SIGTERM)

        assert 0 == code
        assert read_state_file(gateway.config) is None
        with contextlib.closing(open_log(gateway.config)) as log:
            kept = {row.record.event_id for row in log.scan()}
        assert {event for c in callers for event in c.acknowledged} <= kept


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, backend: str) -> None:
    """SIGKILL in mid-traffic, three times; with Redis it dies as well."""
    with contextlib.ExitStack() as stack:
        sections, server = {}, None
        if backend == "redis":
            (tmp_path / "redis").mkdir()
            server = stack.enter_context(RedisProcess(tmp_path / "redis", *DURABLE))
            sections["log"] = f"{{backend: redis, url: '{server.url}'}}"
        gateway = stack.enter_context(Process(write_config(tmp_path, **sections)))
        where = [gateway.running.address]
        caller = Caller(lambda: where[0], make_badge(gateway.config, "n1"))
        with calling(caller):
            for _ in range(3):
                before = len(caller.acknowledged)
                wait_until(lambda before=before: len(caller.acknowledged) > before + 15, 30)  # type: ignore[misc]
                gateway.stop(signal.SIGKILL)
                if server:
                    server.kill()
                    server.start()
                gateway.start()
                where[0] = gateway.running.address
            before = len(caller.acknowledged)
            wait_until(lambda: len(caller.acknowledged) > before + 15, 30)

        with contextlib.closing(open_log(gateway.config)) as log:
            rows = [row.record.event_id for row in log.scan()]
        assert len(rows) == len(set(rows))
        assert set(caller.acknowledged) <= set(rows)


def test_two_gateways_share_state_and_duties(tmp_path: Path) -> None:
    """It scales by adding processes: what one logs the other knows, one of them does the chores."""
    first_path = write_config(tmp_path)
    (tmp_path / "second").mkdir()
    second_path = tmp_path / "second" / "cloud.yaml"
    text = first_path.read_text()
    second_path.write_text(text.replace("state_dir: state", f"state_dir: {tmp_path / 'state'}"))
    asked = record(text=TEXTS[0])
    with Process(first_path) as first:
        badge, address = make_badge(first.config, "n1"), first.running.address
        with Process(second_path) as second:
            other = second.running.address
            answers = [_predict(badge, at, asked) for at in (address, other, address)]

            assert address != other
            assert answers[0] == answers[1] == answers[2]
            with contextlib.closing(open_log(first.config)) as log:
                assert 1 == log.stats().rows


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_two_gateways_share_a_nodes_quota(tmp_path: Path, backend: str) -> None:
    """Adding processes must not add to what one node may use.

    A bucket of 400 that hardly refills: the first gateway grants it all, the second learns of it.
    """
    with contextlib.ExitStack() as stack:
        sections = {"quotas": "{requests_per_s: 1, burst_s: 400}"}
        if backend == "redis":
            (tmp_path / "redis").mkdir()
            server = stack.enter_context(RedisProcess(tmp_path / "redis", *DURABLE))
            sections["log"] = f"{{backend: redis, url: '{server.url}'}}"
        path = write_config(tmp_path, **sections)
        first = stack.enter_context(Process(path))
        badge, address = make_badge(first.config, "n1"), first.running.address
        second = stack.enter_context(Process(path))
        other = second.running.address

        assert address != other
        assert 350 < _granted(badge, address, until_refused_of=500)
        # At this pace of ten a second a bucket of its own would last for 40 s.
        assert 150 > _granted(badge, other, until_refused_of=150, pause_s=0.1)


def _granted(badge: Badge, address: str, *, until_refused_of: int, pause_s: float = 0.0) -> int:
    """Calls that a gateway takes before it says that the node is over its quota."""
    with badge.channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for number in range(until_refused_of):
            asked = inference_pb2.PredictRequest(record=record_to_wire(record(text=TEXTS[0])))
            call = stub.Predict.future(asked, timeout=10)
            if call.exception() is not None:
                assert grpc.StatusCode.RESOURCE_EXHAUSTED is call.code()
                return number
            threading.Event().wait(pause_s)
    return until_refused_of


def test_revoking_from_another_process_is_heard(tmp_path: Path) -> None:
    """`understudy node revoke` is a command of its own; the gateway hears of it by the state."""
    with Process(write_config(tmp_path)) as gateway:
        badge = make_badge(gateway.config, "n1")
        address = gateway.running.address
        _predict(badge, address, record(text=TEXTS[0]))

        with contextlib.closing(open_state(gateway.config)) as state:
            open_enrolment(gateway.config, state).revoke("n1")

        def is_denied() -> bool:
            try:
                _predict(badge, address, record(text=TEXTS[0]))
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.PERMISSION_DENIED
            return False

        wait_until(is_denied)


def test_under_load_neither_memory_nor_descriptors_grow(tmp_path: Path) -> None:
    """The short form of the soak: bench/gateway_soak.py runs it for half an hour."""
    with Process(write_config(tmp_path)) as gateway:
        pid, address = gateway.running.pid, gateway.running.address
        badges = [make_badge(gateway.config, f"n{i}") for i in range(4)]
        _churn(badges, address, connections=3)
        files, memory = _descriptors(pid), _memory_kb(pid)

        _churn(badges, address, connections=6)

        wait_until(lambda: _descriptors(pid) <= files + 8)
        assert _memory_kb(pid) - memory < 30_000


def test_the_operators_port_tells_how_it_is(tmp_path: Path) -> None:
    """Probes, metrics and the console's state come from the same process."""
    with Process(write_config(tmp_path)) as gateway:
        base = f"http://{gateway.running.operator_address}"
        _predict(make_badge(gateway.config, "n1"), gateway.running.address, record(text=TEXTS[0]))

        metrics = httpx.get(f"{base}/metrics").text
        state = httpx.get(f"{base}/api/state").json()

        assert {"alive": True} == httpx.get(f"{base}/healthz").json()
        assert {"ready": True, "reason": ""} == httpx.get(f"{base}/readyz").json()
        assert 'understudy_calls_total{code="OK",method="Predict"} 1.0' in metrics
        assert "understudy_teacher_up 1.0" in metrics
        assert "understudy_log_rows 1.0" in metrics
        assert (TASK, ["n1"]) == (state["task"], [n["node"] for n in state["nodes"]])
        assert 1 == state["traffic"]["teacher_calls"]


def _predict(badge: Badge, address: str, asked: object) -> inference_pb2.PredictResponse:
    with badge.channel(address) as channel:
        message = inference_pb2.PredictRequest(record=record_to_wire(asked))  # type: ignore[arg-type]
        return inference_pb2_grpc.InferenceServiceStub(channel).Predict(message, timeout=10)


def _churn(badges: list[Badge], address: str, connections: int) -> None:
    """Connections come and go, each with a few dozen calls, some of them refused."""
    for _ in range(connections):
        for badge in badges:
            with badge.channel(address) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                calls = [
                    stub.Predict.future(
                        inference_pb2.PredictRequest(
                            record=record_to_wire(record(text=TEXTS[i % 20] if i % 5 else ""))
                        ),
                        timeout=20,
                    )
                    for i in range(40)
                ]
                for one in calls:
                    one.exception()


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_the_state_file_of_a_dead_gateway_is_not_believed(tmp_path: Path) -> None:
    """`understudy cloud status` after a power cut."""
    with Process(write_config(tmp_path)) as gateway:
        gateway.stop(signal.SIGKILL)

        assert read_state_file(gateway.config) is None


def test_a_fleet_that_connects_at_once_is_let_in(tmp_path: Path) -> None:
    """After a power cut everybody is back in the same second.

    With a new certificate configuration for each handshake gRPC 1.85 aborted the whole process.
    """
    with Process(write_config(tmp_path)) as gateway, contextlib.ExitStack() as stack:
        badges = [make_badge(gateway.config, f"n{i}") for i in range(8)]
        calls = []
        for i in range(200):
            channel = stack.enter_context(badges[i % 8].channel(gateway.running.address))
            message = inference_pb2.PredictRequest(record=record_to_wire(record(text=TEXTS[0])))
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            calls.append(stub.Predict.future(message, timeout=60, wait_for_ready=True))

        assert all(call.result().label.labels[0] == LABELS[0] for call in calls)
