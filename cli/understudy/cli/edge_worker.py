"""A product with an embedded client, driven by lines of JSON: the demo's edge process.

Input, one object a line: `{"ask": TEXT, "private": BOOL}`, `{"flush": SECONDS}` or
`{"status": true}`. Output, one object a line in the same order. The end of the input ends the
process.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from understudy.cli.output import plain

if TYPE_CHECKING:
    from understudy.edge import EdgeClient


def main() -> None:
    """Serves standard input until it ends."""
    from understudy.edge import EdgeClient

    with EdgeClient.open(sys.argv[1]) as client:
        serve(client, sys.stdin.buffer, sys.stdout.buffer)


def serve(client: EdgeClient, commands: IO[bytes], answers: IO[bytes]) -> None:
    """Answers each command with one line."""
    for line in commands:
        answers.write(json.dumps(_answer(client, json.loads(line))).encode() + b"\n")
        answers.flush()


def _answer(client: EdgeClient, command: dict[str, Any]) -> dict[str, Any]:
    match command:
        case {"ask": str(text), "private": bool(private)}:
            answer = client.predict(text, never_escalate=private)
            fields = {**asdict(answer), "scores": dict(answer.scores)}
            return {"answer": plain(fields)}
        case {"flush": float(seconds)}:
            return {"flushed": client.flush(seconds)}
        case {"status": True}:
            return {"status": plain(client.status()), "rss_mb": resident_mb()}
        case _:
            raise ValueError(f"unknown command: {command}")


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - procfs, not a path of ours
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
