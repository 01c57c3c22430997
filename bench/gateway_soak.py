"""Half load for half an hour, with kills at random: what is lost, and what grows.

A gateway with the replay teacher (in its process, or as two replicas on Ray Serve) and its log
(SQLite, or a real redis-server) answers nodes at a steady rate. At random the gateway, Redis or a
replica is killed; Ray replaces its replica, the others are started again here. At the end every
acknowledged row must be in the log, once; memory and descriptors of the gateway's last life are
compared between its beginning and its end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from understudy.cloud.ray_start import RayOptions, start_ray
from understudy.cloud.serve_client import ServeTeacher
from understudy.cloud.serve_options import ScaleOptions, ServeOptions
from understudy.cloud.teacher import TeacherSpec
from understudy.cloud.teacher.spec import Engine


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


class Replicas:
    """The teacher on a Ray of our own, which outlives every gateway."""

    def __init__(self, folder: Path) -> None:
        # Sockets lie in this folder, and their paths may not be long.
        self._temp = tempfile.mkdtemp(prefix="us-", dir="/tmp")
        self.app = f"soak-{os.getpid()}"
        spec = TeacherSpec(engine=Engine.REPLAY, recordings=str(folder / "answers.jsonl"))
        options = ServeOptions(
            app=self.app,
            scale=ScaleOptions(min_replicas=2, max_replicas=2),
            replica_cpus=0.25,
            health_period_s=2.0,
        )
        self._teacher = ServeTeacher(spec, options)

    def start(self) -> str:
        """Brings two replicas up; gives the YAML with which a gateway joins them."""
        # In the main thread: Ray's processes end with the thread that started them.
        start_ray(RayOptions(cpus=4, temp_dir=self._temp))
        import ray  # noqa: PLC0415 - reads the environment that `start_ray` sets

        asyncio.run(self._teacher.start())
        address = ray.get_runtime_context().gcs_address
        return f"{{app: {self.app}, deploy: false, ray: {{address: '{address}'}}}}"

    def kill(self) -> None:
        """Kills one; Ray starts another."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"ServeReplica:{self.app}".encode() in entry.read_bytes():
                    os.kill(int(entry.parent.name), signal.SIGKILL)
                    return
        raise SystemExit("no replica of the teacher was found")

    def stop(self) -> None:
        import ray  # noqa: PLC0415 - as above

        asyncio.run(self._teacher.stop())
        ray.shutdown()
        shutil.rmtree(self._temp, ignore_errors=True)


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


@dataclass
class Parts:
    """What can be killed."""

    cloud: Cloud
    redis: Redis | None = None
    replicas: Replicas | None = None
    kills: Counter[str] = field(default_factory=Counter)

    def kill(self, which: int, samples: list[Sample]) -> None:
        """Kills one of what there is, in turn; a gateway and Redis come back at once."""
        present = {"gateway": self.cloud, "redis": self.redis, "replica": self.replicas}
        words = [word for word, part in present.items() if part is not None]
        word = words[which % len(words)]
        self.kills[word] += 1
        if word == "replica" and self.replicas:
            self.replicas.kill()
        elif word == "redis" and self.redis:
            self.redis.kill()
            self.redis.start()
        else:
            self.cloud.kill()
            samples.clear()
            self.cloud.start()

    def stop(self) -> None:
        self.cloud.process.send_signal(signal.SIGTERM)
        self.cloud.process.wait(30)
        if self.replicas:
            self.replicas.stop()
        if self.redis:
            self.redis.kill()


@dataclass(frozen=True)
class Sample:
    """A gateway at one moment of its life."""

    age_s: float
    memory_mb: float
    descriptors: int


def soak(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    parts, config = build(folder, options)
    prepare_state(config)
    badges = enroll_nodes(config, 16)
    address = parts.cloud.start()
    samples: list[Sample] = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        plan = Plan(options.seconds, rate=options.rate, keep=True)
        playing = pool.apply_async(play, (address, badges, plan))
        for number, at in enumerate(_times(options.seconds, options.kills)):
            _wait(playing, at, parts.cloud, samples)
            parts.kill(number, samples)
        _wait(playing, time.monotonic() + options.seconds * 2 + 60, parts.cloud, samples)
        load: Load = playing.get()
    report = _report(config, load, samples, badges)
    parts.stop()
    return {
        "log": options.backend,
        "teacher": options.teacher,
        "kills": dict(parts.kills),
        **report,
    }


def build(folder: Path, options: argparse.Namespace) -> tuple[Parts, Path]:
    """What the options ask for, started but for the gateway, and the gateway's configuration."""
    port = _free_port()
    sections = {
        "gateway": f"{{address: '127.0.0.1:{port}', enroll_address: '127.0.0.1:0', drain_s: 2}}"
    }
    redis = Redis(folder) if options.backend == "redis" else None
    if redis:
        redis.start()
        sections["log"] = f"{{backend: redis, url: 'redis://127.0.0.1:{redis.port}/0'}}"
    write_config(folder)  # its recordings are the replicas' as well
    replicas = Replicas(folder) if options.teacher == "serve" else None
    if replicas:
        sections["serve"] = replicas.start()
    config = write_config(folder, **sections)
    return Parts(Cloud(config), redis, replicas), config


def _wait(playing: object, until_s: float, cloud: Cloud, samples: list[Sample]) -> None:
    pid = cloud.process.pid
    while time.monotonic() < until_s and not playing.ready():  # type: ignore[attr-defined]
        time.sleep(1.0)
        # The first seconds of a life fill caches and pools.
        if time.monotonic() - cloud.begun_s > 10.0:
            age_s = time.monotonic() - cloud.begun_s
            samples.append(Sample(age_s, memory_mb(pid), descriptors(pid)))


def _report(
    config: Path,
    load: Load,
    samples: list[Sample],
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
        "acknowledged_lost": len(set(load.acknowledged) - set(rows)),
        "rows_doubled": len(rows) - len(set(rows)),
        "p50_ms": percentile(load.latencies, 0.5) * 1e3,
        "p99_ms": percentile(load.latencies, 0.99) * 1e3,
        "last_life_s": samples[-1].age_s if samples else 0.0,
        "memory_mb_early": float(np.median([one.memory_mb for one in early] or [0.0])),
        "memory_mb_late": float(np.median([one.memory_mb for one in late] or [0.0])),
        "descriptors_early": float(np.median([one.descriptors for one in early] or [0.0])),
        "descriptors_late": float(np.median([one.descriptors for one in late] or [0.0])),
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
    parser.add_argument("--full", action="store_true", help="30 minutes and 21 kills")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--backend", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--teacher", choices=["replay", "serve"], default="replay")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if options.full:
        options.seconds, options.kills = 1800.0, 21
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        found = soak(Path(name), options)
    print("| figure | value |\n|---|---|")
    for key, value in found.items():
        print(f"| {key} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
