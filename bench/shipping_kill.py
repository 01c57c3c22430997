"""Does a node survive SIGKILL at every step of an update?

    python bench/shipping_kill.py --full

Kills a node before each change of its disk, in turn, then at random moments. Bytes sent twice are
measured against the size of the changed files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from simulators.killing import campaign  # noqa: E402 - the tests' far sides lie beside the product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="1,000 kills instead of 60")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON goes here")
    args = parser.parse_args()
    kills = 1000 if args.full else 60
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        report = campaign(
            Path(folder),
            kills,
            args.seed,
            lambda done: print(f"{done}/{kills}", end="\r", file=sys.stderr),
        )
    print("| what | value |")
    print("|---|---|")
    for name, value in asdict(report).items():
        print(f"| {name.replace('_', ' ')} | {value} |")
    print(f"| share of bytes sent | {report.bytes_sent / report.bytes_needed:.4f} |")
    if args.out:
        args.out.write_text(json.dumps(asdict(report), indent=1))


if __name__ == "__main__":
    main()
