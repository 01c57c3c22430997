"""The client in servers that fork: gunicorn, Celery and multiprocessing, each the real one.

The master opens and uses the client, so that its threads run and its channel is connected, before
workers are forked from it.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulators.bundles import build_bundle
from simulators.edge_gateway import EdgeGateway, wait_until
from understudy.edge import EdgeClient

UNSURE = "qqq"


@pytest.fixture
def gateway() -> Iterator[EdgeGateway]:
    with EdgeGateway() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, gateway: EdgeGateway) -> Path:
    build_bundle(tmp_path / "bundle")
    file = tmp_path / "edge.yaml"
    file.write_text(
        "bundle: bundle\nstate_dir: state\ndeadline_ms: 5000\n"
        f"gateway: {{address: '{gateway.address}'}}\n"
    )
    return file


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(folder: Path, *command: str) -> subprocess.Popen[str]:
        log = (folder / "server.log").open("w")
        running.append(
            subprocess.Popen(
                [sys.executable, *command], cwd=folder, stdout=log, stderr=log, text=True
            )
        )
        log.close()
        return running[-1]

    yield start
    for child in running:
        if child.poll() is None:
            child.kill()
        child.wait()


_STORM = """
import os, sys, threading, time
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
client = EdgeClient.open({config!r})
over = threading.Event()

def ask():
    while not over.is_set():
        client.predict("the machine swallowed my card", deadline_ms=50)
        client.predict("qqq", mode="edge_only")

threads = [threading.Thread(target=ask) for _ in range(3)]
for thread in threads:
    thread.start()
ended = []
for number in range(40):
    pid = os.fork()
    if pid == 0:
        answer = client.predict("the machine swallowed my card")
        client.runtime.uploader.store()
        os._exit(0 if answer.label == "card" else 1)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            ended.append(os.waitstatus_to_exitcode(status))
            break
        time.sleep(0.002)
    else:
        os.kill(pid, 9)
        ended.append("hangs")
        break
over.set()
for thread in threads:
    thread.join()
print(ended == [0] * 40, ended[-1], flush=True)
os._exit(0)
"""


def test_forks_in_the_middle_of_requests_leave_working_children(config: Path) -> None:
    """Three threads predict and spool while forty children are forked, one after the other."""
    code = _STORM.format(path=sys.path, config=str(config))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )

    assert run.stdout.split() == ["True", "0"], run.stderr


_WSGI = """
import json, os, sys
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
client = EdgeClient.open({config!r})
assert client.predict("qqq").source == "teacher"

def app(environ, start_response):
    answer = client.predict("qqq")
    flushed = client.flush(10) if environ["PATH_INFO"] == "/flush" else None
    later = client.predict("qqq", mode="edge_only").request_id if flushed is None else ""
    body = json.dumps([os.getpid(), answer.source.value, later, flushed]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


def test_gunicorn_with_preload_answers_from_every_worker(
    config: Path, gateway: EdgeGateway, started: Any
) -> None:
    """Preloading shares the student's memory; each worker has its own channel and spool."""
    folder = config.parent
    (folder / "shop.py").write_text(_WSGI.format(path=sys.path, config=str(config)))
    server = started(
        folder, "-m", "gunicorn", "--preload", "--workers", "3", "--bind", "unix:sock",
        "--no-control-socket", "--graceful-timeout", "10", "shop:app",
    )  # fmt: skip
    wait_until(lambda: (folder / "sock").exists() or server.poll() is not None, 60)
    assert server.poll() is None, (folder / "server.log").read_text()
    seen: dict[int, list[str]] = {}

    def ask(path: str) -> Any:
        # A new connection each time, so that the kernel deals them out among the workers.
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "sock"))) as http:
            return http.get(f"http://shop{path}", timeout=30).json()

    def all_have_answered() -> bool:
        pid, source, later, _ = ask("/")
        assert source == "teacher"
        seen.setdefault(pid, []).append(later)
        return len(seen) == 3

    wait_until(all_have_answered, 60)
    flushed: set[int] = set()

    def all_have_flushed() -> bool:
        pid, _, _, done = ask("/flush")
        flushed.update([pid] if done else [])
        return flushed >= set(seen)

    wait_until(all_have_flushed, 60)
    server.send_signal(signal.SIGTERM)

    assert server.wait(60) == 0, (folder / "server.log").read_text()
    assert {event for events in seen.values() for event in events} <= set(gateway.stored)
    assert set(gateway.deliveries.values()) == {1}


_CELERY = """
import os, sys
sys.path[:0] = {path!r}
from celery import Celery
app = Celery("shop", broker="filesystem://", backend={results!r})
app.conf.update(
    broker_transport_options={{
        "data_folder_in": {queue!r}, "data_folder_out": {queue!r}, "control_folder": {queue!r},
    }},
    broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1,
)
if sys.argv[0] != "-c":
    from understudy.edge import EdgeClient
    client = EdgeClient.open({config!r})
    assert client.predict("qqq").source == "teacher"

@app.task
def ask(text):
    answer, later = client.predict(text), client.predict(text, mode="edge_only")
    return [os.getpid(), answer.source.value, later.request_id, client.flush(20)]
"""
_SEND = """
import json, sys
sys.path[:0] = ["."]
import shop
sent = [shop.app.send_task("shop.ask", ["qqq"]) for _ in range(8)]
print(json.dumps([one.get(timeout=90) for one in sent]))
"""


def test_celery_prefork_answers_from_every_worker(
    config: Path, gateway: EdgeGateway, started: Any
) -> None:
    """Celery imports the tasks, and with them the client, before it forks its pool."""
    folder = config.parent
    for name in ("queue", "results"):
        (folder / name).mkdir()
    (folder / "shop.py").write_text(
        _CELERY.format(
            path=sys.path, config=str(config), queue=str(folder / "queue"),
            results=f"file://{folder / 'results'}",
        )
    )  # fmt: skip
    worker = started(
        folder, "-m", "celery", "-A", "shop", "worker", "--pool", "prefork", "--concurrency", "2",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    )  # fmt: skip
    sender = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SEND],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert sender.returncode == 0, sender.stderr + (folder / "server.log").read_text()
    rows = json.loads(sender.stdout)
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(60) == 0, (folder / "server.log").read_text()
    assert [[source, flushed] for _, source, _, flushed in rows] == [["teacher", True]] * 8
    assert worker.pid not in {pid for pid, *_ in rows}
    assert {event for *_, event, _ in rows} <= set(gateway.stored)
    assert set(gateway.deliveries.values()) == {1}


def _work(config: str, answers: Any) -> None:
    with EdgeClient.open(config) as client:
        answer, later = client.predict(UNSURE), client.predict(UNSURE, mode="edge_only")
        answers.put((answer.source.value, later.request_id, client.flush(20)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_workers_share_the_masters_state_folder(
    config: Path, gateway: EdgeGateway, method: str
) -> None:
    """They open a client of their own beside the master's."""
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    with EdgeClient.open(config) as master:
        master.predict(UNSURE)
        children = [context.Process(target=_work, args=(str(config), answers)) for _ in range(2)]
        for child in children:
            child.start()
        found = [answers.get(timeout=90) for _ in children]
        for child in children:
            child.join(30)

    assert [(source, flushed) for source, _, flushed in found] == [("teacher", True)] * 2
    assert {event for _, event, _ in found} <= set(gateway.stored)
    assert [child.exitcode for child in children] == [0, 0]
