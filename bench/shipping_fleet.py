"""Can one gateway on two cores update two hundred nodes at once?

    python bench/shipping_fleet.py --bundle NIGHT_BUNDLE --full

A real gateway process with mutual TLS, its release repository and its rollout; every node is a real
updater with a certificate of its own, and installs its first student: check in, download, verify,
stage, self-test, activate, commit, report. The same bytes to the same number of clients, written to
plain TLS sockets by a process that does nothing else, are the measure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import gateway_fleet as fleet

from understudy.cloud.authority import open_authority
from understudy.cloud.config import load_config
from understudy.cloud.parts import open_rollout
from understudy.cloud.releases import ReleaseRepository
from understudy.edge.bundle import Bundle
from understudy.edge.student import Student
from understudy.edge.transport import CloudLink, LinkCredentials
from understudy.edge.updater import (
    ProbationCounters,
    ProbationRules,
    SelfTestRules,
    Updater,
    UpdateSettings,
)
from understudy.types.bundle import decode_manifest
from understudy.types.release import Directive, NodeStatus, UpdateState

PASSPHRASE = "for the length of a bench"  # noqa: S105
PATIENCE_S = 400.0
SETTINGS = UpdateSettings(
    probation=ProbationRules(min_requests=1, min_s=0.0),
    selftest=SelfTestRules(in_child=False, latency_allowance_ms=10_000.0),
    timeout_s=300.0,
    pause_s=0.5,
)


@dataclass(frozen=True)
class Scene:
    """What client processes need."""

    address: str
    folder: Path
    root: bytes
    task: str


@dataclass
class Result:
    """What was measured."""

    nodes: int = 0
    bundle_bytes: int = 0
    committed: int = 0
    counted_by_the_cloud: int = 0
    download_s: float = 0.0
    download_mb_s: float = 0.0
    plain_tls_s: float = 0.0
    plain_tls_mb_s: float = 0.0
    all_committed_s: float = 0.0
    gateway_rss_before_mb: float = 0.0
    gateway_rss_peak_mb: float = 0.0


class LoadedStudent:
    """The client of a node: loads the student for real, answers one text, keeps only its id."""

    def __init__(self, task: str) -> None:
        self.task, self.bundle = task, ""

    def status(self) -> NodeStatus:
        return NodeStatus(task=self.task, bundle=self.bundle)

    def swap(self, bundle: Bundle) -> None:
        Student.load(bundle).run(["is anybody there"])
        self.bundle = bundle.id

    def probation(self) -> ProbationCounters:
        return ProbationCounters(requests=1)

    def obey(self, directive: Directive) -> None:
        """Nothing but the bundle matters here."""


def play(scene: Scene, badges: Sequence[fleet.Badge], phases: threading.Barrier) -> None:
    """One client process: downloads all, waits for the others, finishes all."""
    nodes = []
    for badge in badges:
        link = CloudLink(
            scene.address,
            LinkCredentials(badge.ca, badge.certificate, badge.key, server_name="localhost"),
        )
        home = scene.folder / badge.node
        nodes.append(Updater(home, scene.root, link, LoadedStudent(scene.task), SETTINGS))
    with ThreadPoolExecutor(len(nodes)) as pool:
        phases.wait()
        list(pool.map(lambda node: run_until(node, {UpdateState.VERIFY}), nodes))
        phases.wait()
        phases.wait()
        list(pool.map(lambda node: run_until(node, {UpdateState.IDLE}), nodes))
        list(pool.map(report, nodes))
        phases.wait()


def run_until(node: Updater, wanted: set[UpdateState]) -> None:
    while True:
        state = node.step()
        if state in wanted and not node.record.failure:
            return
        time.sleep(min(node.due_in_s(), 1.0))


def report(node: Updater) -> None:
    """The check-in after the commit, which is what the cloud counts."""
    node.step()
    node.step()


def update_all(scene: Scene, badges: Sequence[fleet.Badge], pid: int, result: Result) -> None:
    context = multiprocessing.get_context("spawn")
    phases = context.Barrier(3, timeout=PATIENCE_S)
    shares = [badges[i::2] for i in range(2)]
    workers = [
        context.Process(target=play, args=(scene, share, phases), daemon=True) for share in shares
    ]
    for worker in workers:
        worker.start()
    peak = Peak(pid)
    try:
        start = watch_phase(phases)
        result.download_s = watch_phase(phases) - start
        result.gateway_rss_before_mb, result.gateway_rss_peak_mb = peak.first, peak.stop()
        middle = time.perf_counter()
        phases.wait()
        result.all_committed_s = result.download_s + watch_phase(phases) - middle
    except threading.BrokenBarrierError:
        lives = "is alive" if peak.is_alive() else "HAS ENDED"
        for worker in workers:
            worker.kill()
        sys.exit(f"not done within {PATIENCE_S:.0f} s; the gateway's process {lives}")
    for worker in workers:
        worker.join(60)


def watch_phase(phases: threading.Barrier) -> float:
    """Waits for everybody; gives the time at which everybody was there."""
    phases.wait()
    return time.perf_counter()


class Peak:
    """Samples the resident memory of a process, MB."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self.first = self.highest = self._read()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._stopping.set()
        self._thread.join()
        return self.highest

    def _run(self) -> None:
        while not self._stopping.wait(0.1) and self.is_alive():
            self.highest = max(self.highest, self._read())

    def is_alive(self) -> bool:
        """False once the process has ended, reaped or not."""
        return self._path.is_file() and "VmRSS" in self._path.read_text()

    def _read(self) -> float:
        lines = self._path.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def plain_copy(config_path: Path, badges: Sequence[fleet.Badge], size: int) -> float:
    """Seconds in which a bare TLS server sends `size` bytes to every client."""
    context = multiprocessing.get_context("spawn")
    ready, theirs = context.Pipe()
    server = context.Process(target=_send_to_all, args=(config_path, size, theirs), daemon=True)
    server.start()
    port = ready.recv()
    phases = context.Barrier(3, timeout=PATIENCE_S)
    workers = [
        context.Process(target=_receive, args=(port, badges[i::2], size, phases)) for i in range(2)
    ]
    for worker in workers:
        worker.start()
    phases.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    server.terminate()
    server.join()
    return seconds


def _send_to_all(config_path: Path, size: int, ready: Connection) -> None:
    authority = open_authority(load_config(config_path).path("ca"))
    shown = authority.issue_server(["localhost"], days=1)
    with tempfile.TemporaryDirectory() as name:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*_files(Path(name), shown.certificate, shown.key))
        tls.load_verify_locations(cadata=authority.certificate_pem.decode())
        tls.verify_mode = ssl.CERT_REQUIRED
    data = memoryview(bytes(size))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    ready.send(listener.getsockname()[1])

    def serve(connection: socket.socket) -> None:
        with tls.wrap_socket(connection, server_side=True) as secure:
            for at in range(0, size, 65_536):
                secure.sendall(data[at : at + 65_536])

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _receive(
    port: int, badges: Sequence[fleet.Badge], size: int, phases: threading.Barrier
) -> None:
    def fetch(badge: fleet.Badge) -> None:
        with tempfile.TemporaryDirectory() as name:
            tls = ssl.create_default_context(cadata=badge.ca.decode())
            tls.load_cert_chain(*_files(Path(name), badge.certificate, badge.key))
        raw = socket.create_connection(("127.0.0.1", port), 120)
        with tls.wrap_socket(raw, server_hostname="localhost") as secure:
            got = 0
            while got < size:
                got += len(secure.recv(65_536))

    phases.wait()
    with ThreadPoolExecutor(len(badges)) as pool:
        list(pool.map(fetch, badges))


def _files(folder: Path, certificate: bytes, key: bytes) -> tuple[str, str]:
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    return str(folder / "cert.pem"), str(folder / "key.pem")


def measure(folder: Path, bundle: Path, count: int) -> Result:
    manifest = decode_manifest((bundle / "manifest.json").read_bytes())
    size = sum(file.stat().st_size for file in bundle.iterdir())
    result = Result(nodes=count, bundle_bytes=size)
    labels = ", ".join(json.dumps(label) for label in manifest.labels)
    config_path = fleet.write_config(folder, tasks=f"{{{manifest.task}: {{labels: [{labels}]}}}}")
    config = load_config(config_path)
    releases = config.path(config.releases_dir)
    repository = ReleaseRepository.create(releases, folder / "keys", PASSPHRASE)
    publisher = repository.publisher(folder / "keys", PASSPHRASE)
    release = publisher.publish(bundle, "stable")
    badges = fleet.enroll_nodes(config_path, count)
    root = repository.store().trusted_root()
    with fleet.gateway_process(config_path) as (pid, address):
        update_all(Scene(address, folder / "nodes", root, manifest.task), badges, pid, result)
        result.committed = sum(
            release.bundle in (folder / "nodes" / badge.node / "current").read_text()
            for badge in badges
        )
    rollout = open_rollout(config, repository.store())
    result.counted_by_the_cloud = rollout.rollouts(time.time())[0].counts.committed
    rollout.close()
    result.plain_tls_s = plain_copy(config_path, badges, size)
    total_mb = count * size / 1e6
    result.download_mb_s = total_mb / result.download_s
    result.plain_tls_mb_s = total_mb / result.plain_tls_s
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--full", action="store_true", help="200 nodes instead of 30")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--out", type=Path, help="JSON goes here")
    args = parser.parse_args()
    count = args.nodes or (200 if args.full else 30)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        result = measure(Path(folder), args.bundle, count)
    print("| what | value |")
    print("|---|---|")
    for name, value in asdict(result).items():
        print(f"| {name} | {value:.1f} |" if isinstance(value, float) else f"| {name} | {value} |")
    if args.out:
        args.out.write_text(json.dumps(asdict(result), indent=1))
    if result.committed != count:
        sys.exit("not every node committed")


if __name__ == "__main__":
    main()
