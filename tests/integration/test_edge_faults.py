"""What the cloud and the machine can do to a client, each with a real socket, server or process.

No call may raise, hang or lose a record, whatever happens. How close a call keeps to its budget is
measured in `bench/edge_faults.py`; here it only must not wait for the peer.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from simulators.bundles import build_bundle
from simulators.certificates import Authority
from simulators.edge_gateway import EdgeGateway, answer_after, refuse_with, wait_until
from simulators.peers import babbler, black_hole, nobody, resetter, unknown_name
from understudy.edge import AsyncEdgeClient, EdgeClient, EdgeConfig
from understudy.edge.config import AuditConfig, GatewayConfig, TlsFiles
from understudy.types.answer import Answer, Source
from understudy.types.decision import Reason, RecordKind

SURE, UNSURE = "the machine swallowed my card", "qqq"
UNREACHABLE = {Reason.LINK_DOWN, Reason.DEADLINE, Reason.TEACHER_FAILED, Reason.THROTTLED}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "b"
    build_bundle(directory)
    return directory


@pytest.fixture
def opened(bundle: Path, tmp_path: Path) -> Iterator[Callable[..., EdgeClient]]:
    clients: list[EdgeClient] = []

    def make(address: str, tls: TlsFiles | None = None, **config: Any) -> EdgeClient:
        config.setdefault("state_dir", str(tmp_path / "state"))
        gateway = GatewayConfig(address=address, tls=tls)
        made = EdgeConfig(bundle=str(bundle), gateway=gateway, **config)
        clients.append(EdgeClient.open(made))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def tls_files(folder: Path, authority: Authority, node: Authority | None = None) -> TlsFiles:
    """What a node has on disk, its certificate from `node` where that is another authority."""
    folder.mkdir(exist_ok=True)
    certificate, key = (node or authority).issue("node")
    for name, data in (("ca", authority.certificate), ("cert", certificate), ("key", key)):
        (folder / name).write_bytes(data)
    return TlsFiles(
        ca=str(folder / "ca"), certificate=str(folder / "cert"), key=str(folder / "key")
    )


PEERS = [nobody, black_hole, babbler, resetter]


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.__name__)
def test_a_peer_that_is_no_cloud_costs_a_degraded_answer(
    opened: Any, peer: Callable[[], AbstractContextManager[str]]
) -> None:
    """Every answer comes, says why, and its record waits on disk."""
    with peer() as address:
        client = opened(address, deadline_ms=150)
        answers = [client.predict(UNSURE) for _ in range(4)] + client.predict_many([UNSURE, SURE])

        assert all(isinstance(a, Answer) for a in answers)
        assert [a.degraded for a in answers] == [True] * 5 + [False]
        assert {a.reason for a in answers[:5]} <= UNREACHABLE
        wait_until(lambda: client.runtime.uploader.spool.stats().rows == 5)
        client.close()


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.__name__)
def test_the_asyncio_twin_bears_the_same_peers(
    bundle: Path, peer: Callable[[], AbstractContextManager[str]]
) -> None:
    """The loop must not be held up either."""

    async def main(address: str) -> list[Answer]:
        config = EdgeConfig(
            bundle=str(bundle), gateway=GatewayConfig(address=address), deadline_ms=150
        )
        async with AsyncEdgeClient.open(config) as client:
            return list(await asyncio.gather(*(client.predict(UNSURE) for _ in range(4))))

    with peer() as address:
        answers = asyncio.run(main(address))

    assert [a.degraded for a in answers] == [True] * 4
    assert {a.reason for a in answers} <= UNREACHABLE


def test_a_name_that_does_not_resolve_is_link_down(opened: Any, tmp_path: Path) -> None:
    """DNS is the first thing to fail."""
    tls = tls_files(tmp_path / "tls", Authority())
    with unknown_name() as address:
        answer = opened(address, tls, deadline_ms=500).predict(UNSURE)

    assert (answer.degraded, answer.reason in UNREACHABLE) == (True, True)


def test_a_late_teacher_is_not_waited_for(opened: Any) -> None:
    """The caller's time is over; the record is reported, so that the log has it once."""
    with EdgeGateway() as gateway:
        gateway.fault = answer_after(30)
        client = opened(gateway.address, deadline_ms=120)
        answer = client.predict(UNSURE)
        assert (answer.reason, answer.degraded) == (Reason.DEADLINE, True)
        assert answer.latency_ms < 10_000

        gateway.fault = None
        assert client.flush(10)
        assert gateway.stored[answer.request_id].text == UNSURE


def test_a_callers_own_budget_counts(opened: Any) -> None:
    """A request that is late already has no time for the configured budget."""
    with EdgeGateway() as gateway:
        gateway.fault = answer_after(30)

        answer = opened(gateway.address, deadline_ms=60_000).predict(UNSURE, deadline_ms=100)

    assert answer.reason is Reason.DEADLINE


def test_a_cloud_that_dies_and_comes_back_is_used_again(opened: Any) -> None:
    """And whatever was spooled arrives exactly once."""
    with EdgeGateway() as gateway:
        port = gateway.port
        client = opened(gateway.address, deadline_ms=400)
        before = client.predict(UNSURE)
    away = [client.predict(UNSURE) for _ in range(5)]
    with EdgeGateway(address=f"127.0.0.1:{port}") as gateway:
        wait_until(lambda: client.predict(UNSURE).source is Source.TEACHER, 40)
        assert client.flush(20)

        assert before.source is Source.TEACHER
        assert all(a.degraded for a in away)
        assert {a.request_id for a in away} <= set(gateway.stored)


def test_push_back_of_a_real_server_is_obeyed(opened: Any) -> None:
    """No call until the time that the server asked for."""
    with EdgeGateway() as gateway:
        gateway.fault = refuse_with(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms=60_000)
        client = opened(gateway.address, updater=no_updates())
        first, second = client.predict(UNSURE), client.predict(UNSURE)

    assert (first.reason, second.reason) == (Reason.OVERLOADED, Reason.OVERLOADED)


def no_updates() -> Any:
    from understudy.edge.config import UpdaterConfig

    return UpdaterConfig(enabled=False)


def test_a_server_of_another_authority_hears_nothing(opened: Any, tmp_path: Path) -> None:
    """A wrong certificate is a fault of the link, and no text crosses it."""
    ours, strangers = Authority(), Authority("strangers")
    certificate, key = strangers.issue()
    with EdgeGateway(grpc.ssl_server_credentials([(key, certificate)])) as gateway:
        client = opened(gateway.address, tls_files(tmp_path / "tls", ours), deadline_ms=400)
        answer = client.predict(UNSURE)

        assert (answer.degraded, answer.reason in UNREACHABLE) == (True, True)
        assert gateway.stored == {}


def test_a_revoked_node_stops_asking_until_its_certificate_changes(
    opened: Any, tmp_path: Path
) -> None:
    """Revocation is seen at once; new files on disk are, too, without a restart."""
    authority = Authority()
    certificate, key = authority.issue()
    server = grpc.ssl_server_credentials(
        [(key, certificate)], authority.certificate, require_client_auth=True
    )
    tls = tls_files(tmp_path / "tls", authority)
    with EdgeGateway(server) as gateway:
        client = opened(gateway.address, tls, deadline_ms=2000)
        assert client.predict(UNSURE).source is Source.TEACHER
        gateway.fault = refuse_with(grpc.StatusCode.PERMISSION_DENIED, "this node is revoked")
        assert client.predict(UNSURE).reason is Reason.ACCESS_DENIED
        asked = len(gateway.stored)
        assert client.predict(UNSURE).reason is Reason.ACCESS_DENIED
        assert len(gateway.stored) == asked
        wait_until(lambda: client.runtime._node is not None)

        gateway.fault = None
        tls_files(tmp_path / "tls", authority)
        client.runtime._node._looked = float("-inf")
        client.check_for_update()
        wait_until(lambda: client.predict(UNSURE).source is Source.TEACHER)
        assert client.flush(10)


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(opened: Any, tmp_path: Path) -> None:
    """Short-lived certificates need no revocation list, but somebody has to renew them."""
    authority = Authority()
    certificate, key = authority.issue()
    server = grpc.ssl_server_credentials([(key, certificate)], authority.certificate)
    tls = tls_files(tmp_path / "tls", authority)
    old, old_key = authority.issue("node", days=0.1)  # began a day ago, so most of its life is over
    Path(tls.certificate).write_bytes(old)
    Path(tls.key).write_bytes(old_key)
    with EdgeGateway(server) as gateway:
        client = opened(gateway.address, tls)
        client.predict(SURE)
        wait_until(lambda: Path(tls.ca).read_bytes() == b"ca")

        assert Path(tls.certificate).read_bytes().startswith(b"new cert of -----BEGIN")
        assert oct(Path(tls.key).stat().st_mode)[-3:] in {"600", "644"}


def test_audits_and_degraded_answers_arrive_once(opened: Any) -> None:
    """At least once on the wire, once in the log: the event id sees to it."""
    with EdgeGateway() as gateway:
        client = opened(gateway.address, audit=AuditConfig(rate=1.0))
        audits = [client.predict(SURE) for _ in range(20)]
        degraded = client.predict(UNSURE, mode="edge_only")
        assert client.flush(10)
        client.close()

        wanted = {a.request_id for a in audits} | {degraded.request_id}
        assert wanted == set(gateway.stored)
        assert gateway.stored[audits[0].request_id].kind is RecordKind.AUDIT


def test_a_record_the_server_will_never_take_does_not_hold_up_the_others(opened: Any) -> None:
    """One poisoned row must not stop a node's reports for ever."""
    with EdgeGateway() as gateway:
        client = opened(gateway.address, mode="edge_only")
        good, bad = client.predict(UNSURE), client.predict("poison")
        gateway.outcome[bad.request_id] = 2
        assert client.flush(10)

        assert set(gateway.stored) == {good.request_id}
        assert client.status().faults["refused"] == 1


_CHILD = """
import sys
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
client = EdgeClient.open({config!r})
print("open", flush=True)
for line in sys.stdin:
    answer = client.predict(line.strip())
    client.runtime.uploader.store()
    print(answer.request_id, flush=True)
"""


def test_what_a_killed_process_had_spooled_is_sent_by_the_next(
    bundle: Path, tmp_path: Path
) -> None:
    """SIGKILL, no farewell: the next process on the state folder adopts the rows."""
    config = tmp_path / "edge.yaml"
    with EdgeGateway() as gateway:
        config.write_text(
            f"bundle: {bundle}\nstate_dir: state\nmode: edge_only\n"
            "gateway: {address: '127.0.0.1:9'}\n"
        )
        code = _CHILD.format(path=sys.path, config=str(config))
        child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        print(UNSURE, file=child.stdin, flush=True)
        spooled = child.stdout.readline().strip()
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()

        config.write_text(config.read_text().replace("127.0.0.1:9", gateway.address))
        with EdgeClient.open(config) as client:
            client.predict(UNSURE)
            wait_until(lambda: spooled in gateway.stored)
        assert gateway.deliveries[spooled] == 1


def test_a_storm_of_kills_loses_nothing_and_doubles_nothing(bundle: Path, tmp_path: Path) -> None:
    """Six processes on one state folder, each killed in the middle of predicting and reporting."""
    config = tmp_path / "edge.yaml"
    spooled: set[str] = set()
    with EdgeGateway() as gateway:
        config.write_text(
            f"bundle: {bundle}\nstate_dir: state\nmode: edge_only\n"
            f"gateway: {{address: '{gateway.address}'}}\n"
        )
        code = _CHILD.format(path=sys.path, config=str(config))
        for number in range(6):
            child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            for _ in range(5 + number):
                print(UNSURE, file=child.stdin, flush=True)
                spooled.add(child.stdout.readline().strip())
            print(UNSURE, file=child.stdin, flush=True)  # this one may be lost, or not
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        with EdgeClient.open(config) as client:
            client.predict(UNSURE)
            assert client.flush(20)
            assert not client.status().faults

    assert len(spooled) == sum(range(5, 11))
    assert spooled <= set(gateway.stored)
    assert len(gateway.stored) <= len(spooled) + 7


def test_two_processes_share_a_state_folder(bundle: Path, tmp_path: Path) -> None:
    """A second worker of the same service must neither fail nor eat the first one's rows."""
    with EdgeGateway() as gateway:
        there = GatewayConfig(address=gateway.address)
        config = EdgeConfig(bundle=str(bundle), state_dir=str(tmp_path), gateway=there)
        with EdgeClient.open(config) as one, EdgeClient.open(config) as two:
            ids = {c.predict(UNSURE, mode="edge_only").request_id for c in (one, two, one, two)}
            assert one.flush(10)
            assert two.flush(10)

        assert ids == set(gateway.stored)
        assert set(gateway.deliveries.values()) == {1}


def test_a_state_folder_that_cannot_be_written_costs_updates_not_answers(
    opened: Any, tmp_path: Path
) -> None:
    """Read-only file systems are common on appliances."""
    (tmp_path / "state").write_text("a file where a folder should be")
    with EdgeGateway() as gateway:
        client = opened(gateway.address)

        assert client.predict(SURE).certified
        assert client.predict(UNSURE).source is Source.TEACHER
        client.predict(UNSURE, mode="edge_only")
        assert client.flush(10)
        assert len(gateway.stored) == 2


def _in_child(client: EdgeClient, answers: Any) -> None:
    answers.put((client.predict(SURE).label, client.predict(UNSURE).source.value))
    answers.put(client.flush(10))
    client.close()


def test_a_forked_child_answers_asks_and_spools_on_its_own(opened: Any) -> None:
    """Servers load once and fork workers; locks may be held by threads that exist no more."""
    with EdgeGateway() as gateway:
        client = opened(gateway.address)
        client.predict(UNSURE)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        runtime = client.runtime
        with (
            runtime.telemetry._lock,
            runtime.uploader._lock,
            runtime.link._lock,
            runtime._swap_lock,
        ):
            child = context.Process(target=_in_child, args=(client, answers))
            child.start()
        assert answers.get(timeout=30) == ("card", "teacher")
        assert answers.get(timeout=30) is True
        child.join(30)
        assert child.exitcode == 0

        assert client.predict(UNSURE).source is Source.TEACHER


_PRELOAD = """
import json, os, sys
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
client = EdgeClient.open({config!r})
client.predict("warm up the master too")
pids = []
for worker in range(3):
    pid = os.fork()
    if pid == 0:
        answer = client.predict("qqq")
        print(json.dumps([answer.source.value, client.flush(10)]), flush=True)
        sys.exit(0)
    pids.append(pid)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
client.close()
"""


def test_preforked_workers_end_cleanly(bundle: Path, tmp_path: Path) -> None:
    """gunicorn with preload: the master has opened and used the client before it forks."""
    config = tmp_path / "edge.yaml"
    with EdgeGateway() as gateway:
        config.write_text(
            f"bundle: {bundle}\nstate_dir: state\ngateway: {{address: '{gateway.address}'}}\n"
        )
        code = _PRELOAD.format(path=sys.path, config=str(config))
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )

    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines.count(["teacher", True]) == 3, run.stderr
    assert lines[-1] == [0, 0, 0]


_THREADS = """
import sys, threading
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
with EdgeClient.open({config!r}) as client:
    opened = [thread.name for thread in threading.enumerate()]
    client.predict("qqq")
    print(opened, [thread.name for thread in threading.enumerate() if not thread.daemon])
    print(sorted(thread.name for thread in threading.enumerate() if thread.daemon))
print([thread.name for thread in threading.enumerate()])
"""


def test_a_client_has_two_daemon_threads_once_it_is_used(bundle: Path, tmp_path: Path) -> None:
    """None at open, two at the first request, gRPC's Python part adds none, none is left."""
    config = tmp_path / "edge.yaml"
    with EdgeGateway() as gateway:
        config.write_text(
            f"bundle: {bundle}\nstate_dir: state\ngateway: {{address: '{gateway.address}'}}\n"
        )
        code = _THREADS.format(path=sys.path, config=str(config))
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )

    assert run.stdout.splitlines() == [
        "['MainThread'] ['MainThread']",
        "['understudy.updater', 'understudy.uploader']",
        "['MainThread']",
    ], run.stderr


def test_a_forgotten_client_lets_the_process_end(bundle: Path, tmp_path: Path) -> None:
    """No close, threads running, cloud silent: the interpreter must not hang at exit."""
    config = tmp_path / "edge.yaml"
    with black_hole() as address:
        config.write_text(
            f"bundle: {bundle}\nstate_dir: state\ndeadline_ms: 50\n"
            f"gateway: {{address: '{address}'}}\n"
        )
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}\n"
            "from understudy.edge import EdgeClient\n"
            f"print(EdgeClient.open({str(config)!r}).predict('qqq').degraded)"
        )
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )

    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr
    assert time.monotonic() - started < 60
