"""Does a product notice when its student is replaced?

    python bench/shipping_swap.py --base NIGHT1_BUNDLE --full NIGHT2_BUNDLE --full-run

Requests arrive at a fixed rate, whether or not the last one is done, so a stall delays all that
come after it. While they do, the client downloads, verifies, self-tests and activates another
student over gRPC from a server in another process. Latency counts from the planned arrival.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from understudy.cloud.releases import Publisher, ReleaseRepository
from understudy.edge import EdgeClient
from understudy.edge.config import EdgeConfig, GatewayConfig, Mode, SpoolConfig, UpdaterConfig
from understudy.types.bundle import decode_manifest

ROOT = Path(__file__).resolve().parents[1]
PASSPHRASE = "for the length of a bench"  # noqa: S105
TEXTS = ("my card was swallowed by the machine", "where is my refund", "I sent money twice")


@dataclass
class Load:
    """Requests at a fixed rate; latencies in milliseconds with the moment they were planned."""

    client: EdgeClient
    rate: float
    stopping: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[float, float, str]] = field(default_factory=list)
    failed: int = 0

    def run(self) -> None:
        planned, number = time.perf_counter(), 0
        while not self.stopping.is_set():
            planned += 1 / self.rate
            time.sleep(max(0.0, planned - time.perf_counter()))
            try:
                answer = self.client.predict(TEXTS[number % len(TEXTS)])
            except Exception:  # noqa: BLE001 - any failure is what is counted
                self.failed += 1
            else:
                done = time.perf_counter()
                self.seen.append((planned, 1000 * (done - planned), answer.bundle))
            number += 1

    def between(self, start: float, end: float) -> list[float]:
        return [ms for planned, ms, _ in self.seen if start <= planned < end]


def p(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def swap_once(client: EdgeClient, wanted: str, timeout_s: float = 40.0) -> tuple[float, float]:
    """Asks for an update and waits until it answers; start and end."""
    start = time.perf_counter()
    client.check_for_update()
    while client.status().bundle != wanted:
        if time.perf_counter() - start > timeout_s:
            record = Path(client.runtime.config.state_dir, "update.json").read_text()
            sys.exit(f"the update did not come: {record}")
        time.sleep(0.02)
    return start, time.perf_counter()


@contextmanager
def client_with_updates(base: Path, folder: Path) -> Iterator[tuple[EdgeClient, Publisher]]:
    """A client that runs `base`, a server in another process, and whoever can publish to it."""
    repository = ReleaseRepository.create(folder / "server", folder / "keys", PASSPHRASE)
    publisher = repository.publisher(folder / "keys", PASSPHRASE)
    publisher.publish(base, "stable")
    (folder / "root.json").write_bytes(repository.store().trusted_root())
    task = decode_manifest((base / "manifest.json").read_bytes()).task
    server = subprocess.Popen(
        [sys.executable, "-m", "simulators.artifact_server", folder / "server", task],
        cwd=ROOT / "tests",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    config = EdgeConfig(
        bundle=str(base),
        state_dir=str(folder / "node"),
        gateway=GatewayConfig(address=server.stdout.readline().strip()),
        mode=Mode.EDGE_ONLY,
        spool=SpoolConfig(enabled=False),
        updater=UpdaterConfig(
            trusted_root=str(folder / "root.json"), probation_requests=1, probation_s=0.0
        ),
    )
    with EdgeClient.open(config) as client:
        yield client, publisher
    server.communicate()


def measure(
    bundles: tuple[Path, Path], rate: float, swaps: int, quiet_s: float
) -> dict[str, float]:
    """Swaps back and forth under load; milliseconds before and during."""
    before: list[float] = []
    during: list[float] = []
    spans: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        client_with_updates(bundles[0], Path(name)) as (client, publisher),
    ):
        load = Load(client, rate)
        thread = threading.Thread(target=load.run, daemon=True)
        thread.start()
        for number in range(swaps):
            quiet = time.perf_counter()
            time.sleep(quiet_s)
            calm = time.perf_counter()
            release = publisher.publish(bundles[(number + 1) % 2], "stable")
            start, end = swap_once(client, release.bundle)
            before += load.between(quiet + 0.5, calm)
            during += load.between(start, end + 0.2)
            spans.append(end - start)
        load.stopping.set()
        thread.join()
    return {
        "requests": len(load.seen),
        "failed": load.failed,
        "swaps": swaps,
        "update_s_median": statistics.median(spans),
        "before_p50_ms": p(before, 0.5),
        "before_p99_ms": p(before, 0.99),
        "during_p50_ms": p(during, 0.5),
        "during_p99_ms": p(during, 0.99),
        "during_max_ms": max(during),
        "during_requests": len(during),
        "p99_ratio": p(during, 0.99) / p(before, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--full", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--swaps", type=int, default=4)
    parser.add_argument("--quiet-s", type=float, default=6.0, help="seconds before each swap")
    parser.add_argument("--full-run", action="store_true", help="20 swaps")
    parser.add_argument("--out", type=Path, help="JSON goes here")
    args = parser.parse_args()
    swaps = 20 if args.full_run else args.swaps
    row = measure((args.base, args.full), args.rate, swaps, args.quiet_s)
    print("| what | value |")
    print("|---|---|")
    for key, value in row.items():
        print(f"| {key} | {value:.2f} |" if isinstance(value, float) else f"| {key} | {value} |")
    if args.out:
        args.out.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
