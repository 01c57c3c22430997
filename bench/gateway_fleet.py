"""What the gateway benchmarks share: server processes, enrolled nodes, load, percentiles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np

from understudy.cloud.authority import make_request, open_authority
from understudy.cloud.config import load_config
from understudy.cloud.process import read_state_file
from understudy.cloud.state import SqliteState
from understudy.wire.v1 import inference_pb2, records_pb2

TASK = "support"
LABELS = tuple(f"intent_{i:02d}" for i in range(20))
TEXTS = tuple(f"question number {i} about my account, please answer soon" for i in range(500))
PREDICT = "/understudy.wire.v1.InferenceService/Predict"


@dataclass(frozen=True)
class Badge:
    """What a node needs to connect."""

    node: str
    ca: bytes
    key: bytes
    certificate: bytes


@dataclass
class Load:
    """What a load process saw: latencies in seconds, and statuses other than OK."""

    latencies: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    acknowledged: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Load) -> None:
        self.latencies += other.latencies
        self.acknowledged += other.acknowledged
        self.seconds = max(self.seconds, other.seconds)
        for word, count in other.failures.items():
            self.failures[word] = self.failures.get(word, 0) + count


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def write_config(folder: Path, **sections: str) -> Path:
    """A cloud.yaml with the replay teacher; `sections` replace or add top-level keys."""
    recordings = folder / "answers.jsonl"
    rng = np.random.default_rng(1)
    with recordings.open("w") as file:
        for text in TEXTS:
            weights = [rng.random() ** 4 for _ in LABELS]
            total = sum(weights)
            probs = {name: w / total for name, w in zip(LABELS, weights, strict=True)}
            file.write(json.dumps({"text": text, "teacher_probs": probs}) + "\n")
    keys = {
        "state_dir": str(folder / "state"),
        "tasks": f"{{{TASK}: {{labels: [{', '.join(LABELS)}]}}}}",
        "teacher": f"{{engine: replay, recordings: {recordings}}}",
        "gateway": "{address: '127.0.0.1:0', enroll_address: '127.0.0.1:0', drain_s: 2}",
        "operator": "{address: ''}",
        "quotas": "{requests_per_s: 0, bytes_per_s: 0, teacher_calls_per_s: 0}",
    }
    path = folder / "cloud.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (keys | sections).items()))
    return path


def enroll_nodes(config_path: Path, count: int) -> list[Badge]:
    """Signs certificates as the enrolment desk does, without its one-time tokens."""
    config = load_config(config_path)
    authority = open_authority(config.path("ca"))
    badges = []
    for number in range(count):
        request = make_request(f"node-{number}")
        signed = authority.sign_node(request.certificate, f"node-{number}", days=1)
        badges.append(Badge(f"node-{number}", authority.certificate_pem, request.key, signed))
    return badges


@contextmanager
def gateway_process(config_path: Path) -> Iterator[tuple[int, str]]:
    """A gateway in a process of its own; gives its pid and address."""
    process = start_gateway(config_path)
    try:
        yield process.pid, wait_for_address(config_path, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def start_gateway(config_path: Path) -> subprocess.Popen[bytes]:
    program = (
        "import sys; from pathlib import Path; from understudy.cloud.config import load_config; "
        "from understudy.cloud.process import run_gateway; "
        "run_gateway(load_config(Path(sys.argv[1])))"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(config_path)])


def wait_for_address(config_path: Path, process: subprocess.Popen[bytes]) -> str:
    config = load_config(config_path)
    deadline = time.monotonic() + 240  # Ray alone takes a minute on a busy machine
    while time.monotonic() < deadline:
        running = read_state_file(config)
        if running is not None and running.pid == process.pid:
            return running.address
        if process.poll() is not None:
            raise SystemExit("the gateway did not start")
        time.sleep(0.05)
    raise SystemExit("the gateway did not come up in time")


@contextmanager
def echo_process(config_path: Path) -> Iterator[tuple[int, str]]:
    """A bare grpc.aio server with the same TLS that returns a message of the same size."""
    context = multiprocessing.get_context("spawn")
    ready, theirs = context.Pipe()
    process = context.Process(target=_run_echo, args=(config_path, theirs), daemon=True)
    process.start()
    try:
        yield int(process.pid or 0), ready.recv()
    finally:
        process.terminate()
        process.join()


def _run_echo(config_path: Path, ready: object) -> None:
    config = load_config(config_path)
    authority = open_authority(config.path("ca"))
    shown = authority.issue_server(["localhost", "127.0.0.1"], days=1)
    credentials = grpc.ssl_server_credentials(
        [(shown.key, shown.certificate)], authority.certificate_pem, require_client_auth=True
    )
    answer = inference_pb2.PredictResponse(
        label=records_pb2.TeacherLabel(
            teacher="replay:answers",
            prompt_hash="0" * 16,
            labels=LABELS,
            log_probs=[-1.0 * i for i in range(len(LABELS))],
            label_mass=1.0,
        )
    )

    async def echo(request: inference_pb2.PredictRequest, context: object) -> object:
        del request, context
        return answer

    async def serve() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            echo,
            request_deserializer=inference_pb2.PredictRequest.FromString,
            response_serializer=inference_pb2.PredictResponse.SerializeToString,
        )
        service, method = PREDICT[1:].split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        ready.send(f"127.0.0.1:{port}")  # type: ignore[attr-defined]
        await server.wait_for_termination()

    asyncio.run(serve())


@dataclass(frozen=True)
class Plan:
    """One load: every node keeps `depth` calls going, or all together call `rate` times a second.

    Attributes:
        seconds: How long.
        depth: Concurrent calls of a node, when there is no rate.
        rate: Calls a second of all nodes of this process together; 0 for as fast as it goes.
        warm_s: Seconds at the start that are not counted.
        keep: True to remember what was acknowledged.
        timeout_s: Deadline of each call.
    """

    seconds: float
    depth: int = 4
    rate: float = 0.0
    warm_s: float = 1.0
    keep: bool = False
    timeout_s: float = 20.0


def run_load(address: str, badges: Sequence[Badge], plan: Plan, processes: int = 2) -> Load:
    """Plays the nodes from several processes and adds up what they saw."""
    shares = [list(badges[i::processes]) for i in range(processes)]
    shares = [share for share in shares if share]
    each = Plan(**asdict(plan) | {"rate": plan.rate / len(shares)})
    context = multiprocessing.get_context("spawn")
    total = Load()
    with context.Pool(len(shares)) as pool:
        for load in pool.starmap(play, [(address, share, each) for share in shares]):
            total.add(load)
    return total


def play(address: str, badges: Sequence[Badge], plan: Plan) -> Load:
    return asyncio.run(_play(address, badges, plan))


async def _play(address: str, badges: Sequence[Badge], plan: Plan) -> Load:
    channels = [_channel(address, badge) for badge in badges]
    gate = asyncio.Semaphore(32)  # so many handshakes at once
    await asyncio.gather(*(_connect(channel, gate) for channel in channels))
    load = Load()
    started = time.perf_counter()
    begin, end = started + plan.warm_s, started + plan.warm_s + plan.seconds
    players = [
        Player(_method(channel), badge.node, plan, load, begin, np.random.default_rng(number))
        for number, (channel, badge) in enumerate(zip(channels, badges, strict=True))
    ]
    if plan.rate:
        await _paced(players, plan.rate, end)
    else:
        await asyncio.gather(*(p.loop(end) for p in players for _ in range(plan.depth)))
    load.seconds = time.perf_counter() - begin
    await asyncio.gather(*(channel.close() for channel in channels))
    return load


Call = Callable[..., Awaitable[inference_pb2.PredictResponse]]


async def connected(address: str, badge: Badge) -> Call:
    """One node's way to ask, its connection made."""
    channel = _channel(address, badge)
    await _connect(channel, asyncio.Semaphore(1))
    return _method(channel)


async def _connect(channel: grpc.aio.Channel, gate: asyncio.Semaphore) -> None:
    """Any answer proves the connection; the bare echo does not know this method."""
    probe = channel.unary_unary("/grpc.health.v1.Health/Check")
    async with gate:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await probe(b"", timeout=60, wait_for_ready=True)


@dataclass
class Player:
    """One node's part in a load."""

    call: Call
    node: str
    plan: Plan
    load: Load
    begin: float
    rng: np.random.Generator

    async def loop(self, end: float) -> None:
        while time.perf_counter() < end:
            await self.once(time.perf_counter())

    async def once(self, due: float) -> None:
        """One call; latency counts from its appointed time: a late start is the server's fault."""
        request = message(self.rng)
        try:
            await self.call(request, timeout=self.plan.timeout_s)
        except grpc.aio.AioRpcError as error:
            word = error.code().name
            self.load.failures[word] = self.load.failures.get(word, 0) + 1
            return
        if self.plan.keep:
            self.load.acknowledged.append((self.node, request.record.event_id))
        if due >= self.begin:
            self.load.latencies.append(time.perf_counter() - due)


async def _paced(players: Sequence[Player], rate: float, end: float) -> None:
    """Calls at their appointed times, whether or not earlier ones have come back."""
    rng, running = np.random.default_rng(7), set()
    due = time.perf_counter()
    while due < end:
        due += rng.exponential(1.0 / rate)
        delay = due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(players[int(rng.integers(len(players)))].once(due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)


def message(rng: np.random.Generator) -> inference_pb2.PredictRequest:
    return inference_pb2.PredictRequest(
        record=records_pb2.EscalationRecord(
            event_id=event_id(),
            task=TASK,
            bundle="b" * 64,
            text=TEXTS[int(rng.integers(len(TEXTS)))],
            top=[records_pb2.LabelScore(label=LABELS[i], score=0.2) for i in range(3)],
            confidence=0.4,
            threshold=0.9,
            kind=records_pb2.RECORD_KIND_ESCALATION,
            audit_rate=0.02,
            propensity=1.0,
            created_unix_s=time.time(),
        )
    )


def event_id() -> str:
    data = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    data[6], data[8] = 0x70 | data[6] & 0x0F, 0x80 | data[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(data)))


def _channel(address: str, badge: Badge) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(badge.ca, badge.key, badge.certificate)
    return grpc.aio.secure_channel(
        address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
    )


def _method(channel: grpc.aio.Channel) -> Call:
    return channel.unary_unary(
        PREDICT,
        request_serializer=inference_pb2.PredictRequest.SerializeToString,
        response_deserializer=inference_pb2.PredictResponse.FromString,
    )


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Calm:
    """Which rounds count: those in which other work used little of the machine's processors.

    Attributes:
        others: Largest share of all processors that others may use; 1 counts every round.
        patience_s: Longest time spent on waiting for calm moments and on rounds that did not count.
    """

    others: float = 1.0
    patience_s: float = 600.0

    def rounds(
        self, count: int, pids: Sequence[int], measure: Callable[[], Measured]
    ) -> list[Measured]:
        """So many rounds that count; fewer, and at least one, when patience ends."""
        found: list[Measured] = []
        ends_s = time.monotonic() + self.patience_s
        while len(found) < count:
            out_of_time = time.monotonic() > ends_s
            if out_of_time and found:
                break
            if not out_of_time and _others(pids, lambda: time.sleep(1.0))[1] > self.others:
                continue
            measured, share = _others(pids, measure)
            if share <= self.others or out_of_time:
                found.append(measured)
            print(f"round: others used {share:.0%} of the machine", flush=True)
        return found


def _others(pids: Sequence[int], work: Callable[[], Measured]) -> tuple[Measured, float]:
    """What `work` returns, and the share of all processors that others used meanwhile."""
    begun_s, busy, own = time.monotonic(), _busy_seconds(), _own_seconds(pids)
    result = work()
    passed_s = (time.monotonic() - begun_s) * (os.cpu_count() or 1)
    foreign = (_busy_seconds() - busy) - (_own_seconds(pids) - own)
    return result, max(0.0, foreign / passed_s)


def _busy_seconds() -> float:
    """Time that all processors of the machine were at work so far."""
    user, nice, system, _, _, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds(pids: Sequence[int]) -> float:
    """The same of this process, its children that have ended, and the servers `pids`."""
    times = os.times()
    mine = times.user + times.system + times.children_user + times.children_system
    return mine + sum(map(cpu_seconds, pids))


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def prepare_state(config_path: Path) -> None:
    """Makes state folder and authority, so that nodes can be signed before the gateway runs."""
    config = load_config(config_path)
    Path(config.state_dir).mkdir(parents=True, exist_ok=True)
    open_authority(config.path("ca"))
    SqliteState(config.path("state.db")).close()
