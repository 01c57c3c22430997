"""How long until the first answer, how much memory, how much CPU while nobody asks?

Every figure is taken in fresh interpreters: the import alone, process start to first answer, the
resident memory after a thousand answers, and CPU time over an idle stretch with both threads up.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

IMPORT = """
import time; started = time.perf_counter()
import understudy.edge
print(__import__("json").dumps({"import_ms": (time.perf_counter() - started) * 1000}))
"""
FIRST = """
import json, os, sys, time
from understudy.edge import EdgeClient
client = EdgeClient.open(sys.argv[1])
client.predict("my card has not arrived yet")
# The kernel notes when the process began, in clock ticks since boot.
began = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
first_ms = (time.clock_gettime(time.CLOCK_BOOTTIME) - began) * 1000
first_cpu_ms = time.process_time() * 1000
for i in range(1000):
    client.predict(f"where is my card {i}")
rss = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
cpu = time.process_time(); began = time.perf_counter()
time.sleep(float(sys.argv[2]))
idle = (time.process_time() - cpu) / (time.perf_counter() - began) * 100
print(json.dumps({"first_answer_ms": first_ms, "first_answer_cpu_ms": first_cpu_ms,
                  "rss_mb": rss, "idle_cpu_percent": idle}))
os._exit(0)
"""


def run(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a trained student's directory")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--idle-s", type=float, default=5.0)
    parser.add_argument("--full", action="store_true", help="idle for a minute, 21 runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs, idle_s = (21, 60.0) if args.full else (args.runs, args.idle_s)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as silent:
        config = Path(folder) / "edge.yaml"
        config.write_text(
            f"bundle: {Path(args.bundle).absolute()}\nstate_dir: state\nmode: edge_only\n"
            f"gateway: {{address: '127.0.0.1:{silent.getsockname()[1]}'}}\n"
        )
        for number in range(runs):
            # The idle stretch is the slow part: once is enough for a quick look.
            idle = idle_s if number == 0 or args.full else 0.01
            row = run(IMPORT) | run(FIRST, str(config), str(idle))
            if idle == 0.01:
                row.pop("idle_cpu_percent")
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    limits: dict[str, Any] = {
        "import_ms": 60,
        "first_answer_ms": 800,
        "first_answer_cpu_ms": 800,
        "rss_mb": 160,
        "idle_cpu_percent": 0.2,
    }
    print("| | median | worst | wanted |\n|---|---|---|---|")
    for name, values in found.items():
        print(
            f"| {name} | {statistics.median(values):.2f} | {max(values):.2f} | ≤ {limits[name]} |"
        )
    if args.out:
        args.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
