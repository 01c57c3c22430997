"""Does memory stay where it is over fifty swaps, and do requests notice?

A thread asks all the time while the client swaps between bundles; resident memory is read after
each swap, and every answer must come from one of the bundles.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from understudy.edge import EdgeClient
from understudy.edge.bundle import read_bundle


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:  # noqa: PLR0915 - one experiment, told in order
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a trained student's directory")
    parser.add_argument("--other", help="a second one; the same when left out")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--full", action="store_true", help="200 swaps")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    swaps = 200 if args.full else args.swaps
    with tempfile.TemporaryDirectory() as folder:
        second = Path(folder) / "second"
        shutil.copytree(args.other or args.bundle, second)
        client = EdgeClient.open(args.bundle)
        calm, during, memory, swap_ms, stop = [], [], [], [], threading.Event()
        calm += [client.predict("where is my card").latency_ms for _ in range(500)]

        def ask() -> None:
            while not stop.is_set():
                during.append(client.predict("where is my card").latency_ms)

        asking = threading.Thread(target=ask)
        asking.start()
        for number in range(swaps):
            started = time.perf_counter()
            client.swap(read_bundle((second, args.bundle)[number % 2]))
            swap_ms.append((time.perf_counter() - started) * 1000)
            memory.append(resident_mb())
        stop.set()
        asking.join()
        client.close()
    early, late = np.median(memory[swaps // 5 : swaps // 2]), np.median(memory[-swaps // 5 :])
    rows = {
        "RSS after the first swap, MB": memory[0],
        "RSS, swaps 20-50 % (median), MB": early,
        "RSS, last fifth (median), MB": late,
        "growth over the second half, MB": late - early,
        "one swap, golden vectors included (median), ms": np.median(swap_ms),
        "predict p50 without swaps, ms": np.percentile(calm, 50),
        "predict p50 while swapping, ms": np.percentile(during, 50),
        "predict p99 without swaps, ms": np.percentile(calm, 99),
        "predict p99 while swapping, ms": np.percentile(during, 99),
        "answers while swapping": len(during),
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.2f} |")
    if args.out:
        args.out.write_text(
            json.dumps({k: float(v) for k, v in rows.items()} | {"memory": memory}, indent=2)
        )


if __name__ == "__main__":
    main()
