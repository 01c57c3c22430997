"""Half load for half an hour, with kills at random: what is lost, and what grows.

A gateway with the replay teacher and its log (SQLite, or a real redis-server) answers nodes at a
steady rate. At random the gateway, or Redis, is killed and started again. At the end every
acknowledged row must be in the log, once; memory and descriptors of the gateway's last life are
compared between its beginning and its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gateway_fleet import (
    Badge,
    Load,
    Plan,
    descriptors,
    enroll_nodes,
    memory_mb,
    percentile,
    play,
    prepare_state,
    start_gateway,
    wait_for_address,
    write_config,
)

from understudy.cloud.config import load_config
from understudy.cloud.parts import open_log


class Redis:
    """A durable redis-server that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self) -> None:
        program = shutil.which("redis-server") or "redis-server"
        words = ["--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"]
        self.process = subprocess.Popen([program, "--bind", "127.0.0.1", *words])
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Cloud:
    """A gateway at one address through all its lives."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.lives = 0

    def start(self) -> str:
        self.process = start_gateway(self.config)
        self.lives += 1
        self.begun_s = time.monotonic()
        return wait_for_address(self.config, self.process)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def soak(folder: Path, seconds: float, rate: float, kills: int, backend: str) -> dict[str, object]:
    port = _free_port()
    sections = {
        "gateway": f"{{address: '127.0.0.1:{port}', enroll_address: '127.0.0.1:0', drain_s: 2}}"
    }
    redis = Redis(folder) if backend == "redis" else None
    if redis:
        redis.start()
        sections["log"] = f"{{backend: redis, url: 'redis://127.0.0.1:{redis.port}/0'}}"
    config = write_config(folder, **sections)
    prepare_state(config)
    badges, cloud = enroll_nodes(config, 16), Cloud(config)
    address = cloud.start()
    samples: list[tuple[float, float, int]] = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        plan = Plan(seconds, rate=rate, keep=True)
        playing = pool.apply_async(play, (address, badges, plan))
        for at in _times(seconds, kills):
            _wait(playing, at, cloud, samples)
            if redis and cloud.lives % 2 == 0:
                redis.kill()
                redis.start()
            cloud.kill()
            samples.clear()
            cloud.start()
        _wait(playing, time.monotonic() + seconds * 2 + 60, cloud, samples)
        load: Load = playing.get()
    report = _report(config, load, samples, cloud, badges)
    cloud.process.send_signal(signal.SIGTERM)
    cloud.process.wait(30)
    if redis:
        redis.kill()
    return report | {"backend": backend}


def _wait(
    playing: object, until_s: float, cloud: Cloud, samples: list[tuple[float, float, int]]
) -> None:
    pid = cloud.process.pid
    while time.monotonic() < until_s and not playing.ready():  # type: ignore[attr-defined]
        time.sleep(1.0)
        # The first seconds of a life fill caches and pools.
        if time.monotonic() - cloud.begun_s > 10.0:
            samples.append((time.monotonic() - cloud.begun_s, memory_mb(pid), descriptors(pid)))


def _report(
    config: Path,
    load: Load,
    samples: list[tuple[float, float, int]],
    cloud: Cloud,
    badges: list[Badge],
) -> dict[str, object]:
    with contextlib.closing(open_log(load_config(config))) as log:
        rows = [(row.record.node, row.record.event_id) for row in log.scan()]
    third = max(1, len(samples) // 3)
    early, late = samples[:third], samples[-third:]
    return {
        "seconds": load.seconds,
        "nodes": len(badges),
        "answered": len(load.acknowledged),
        "not_answered": load.failures,
        "gateway_lives": cloud.lives,
        "acknowledged_lost": len(set(load.acknowledged) - set(rows)),
        "rows_doubled": len(rows) - len(set(rows)),
        "p50_ms": percentile(load.latencies, 0.5) * 1e3,
        "p99_ms": percentile(load.latencies, 0.99) * 1e3,
        "last_life_s": samples[-1][0] if samples else 0.0,
        "memory_mb_early": float(np.median([m for _, m, _ in early])) if early else 0.0,
        "memory_mb_late": float(np.median([m for _, m, _ in late])) if late else 0.0,
        "descriptors_early": float(np.median([d for _, _, d in early])) if early else 0.0,
        "descriptors_late": float(np.median([d for _, _, d in late])) if late else 0.0,
    }


def _times(seconds: float, kills: int) -> Iterator[float]:
    """Moments of the kills: at random in the first half, so that the last life is a long one."""
    rng, begin = np.random.default_rng(3), time.monotonic()
    for at in sorted(rng.uniform(3.0, max(4.0, seconds / 2), kills)):
        yield begin + at


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="30 minutes and 20 kills")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--backend", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    seconds, kills = (1800.0, 20) if options.full else (options.seconds, options.kills)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        found = soak(Path(name), seconds, options.rate, kills, options.backend)
    print("| figure | value |\n|---|---|")
    for key, value in found.items():
        print(f"| {key} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
