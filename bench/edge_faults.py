"""How close does a call keep to its budget when the cloud is dead, each in its own way?

Real sockets: nobody listens, a black hole accepts and is silent, a babbler speaks garbage, a
resetter breaks off in mid-frame. Over-run is the time past the budget, as the caller sees it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from understudy.edge import EdgeClient, EdgeConfig
from understudy.edge.config import GatewayConfig

RESET = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def peer(speak: Callable[[socket.socket], None] | None) -> Iterator[str]:
    server = socket.create_server(("127.0.0.1", 0), backlog=256)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    assert speak is not None
                    speak(connection)

    thread = threading.Thread(target=accept, daemon=True)
    if speak is not None:
        thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"127.0.0.1:{port}"


def babble(connection: socket.socket) -> None:
    connection.sendall(b"\x00\xffHTTP/1.1 200 OK\r\n\r\ngarbage" * 50)


def reset(connection: socket.socket) -> None:
    connection.recv(1024)
    connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a trained student's directory")
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--full", action="store_true", help="ten times the calls")
    parser.add_argument("--budget-ms", type=float, default=200.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    calls, report = args.calls * (10 if args.full else 1), {}
    peers = {
        "refuse": nobody(),
        "black hole": peer(None),
        "garbage": peer(babble),
        "reset": peer(reset),
    }
    print("| peer | calls | raised | over-run p99 ms | over-run max ms | answer p50 ms | reasons |")
    print("|---|---|---|---|---|---|---|")
    for name, opening in peers.items():
        with opening as address:
            config = EdgeConfig(
                bundle=args.bundle,
                gateway=GatewayConfig(address=address),
                deadline_ms=args.budget_ms,
            )
            took, reasons, raised = [], Counter[str](), 0
            client = EdgeClient.open(config)
            for number in range(calls):
                started = time.perf_counter()
                try:
                    answer = client.predict(f"zq {number} xv", deadline_ms=args.budget_ms)
                    reasons[answer.reason.value] += 1
                except Exception:  # noqa: BLE001 - counted: there must be none
                    raised += 1
                took.append((time.perf_counter() - started) * 1000)
            client.close()
        over = np.maximum(0, np.array(took) - args.budget_ms)
        report[name] = {
            "p99": np.percentile(over, 99),
            "max": over.max(),
            "raised": raised,
            "reasons": reasons,
        }
        words = ", ".join(f"{k} {v}" for k, v in reasons.most_common())
        print(
            f"| {name} | {calls} | {raised} | {np.percentile(over, 99):.1f} | {over.max():.1f} "
            f"| {np.median(took):.1f} | {words} |"
        )
    if args.out:
        args.out.write_text(json.dumps(report, indent=2, default=float))


if __name__ == "__main__":
    main()
