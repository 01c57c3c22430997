"""Runs the quick form of every benchmark that needs nothing but the public data; `make bench`.

A benchmark that needs a trained bundle runs when --bundle names one, one that works on a night's
workspace when --workspace does. The full forms, and what they
measured, stand in docs/benchmarks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NEED_BUNDLES = {"edge_compare.py", "edge_faults.py", "edge_overhead.py", "edge_startup.py",
                "edge_swap.py", "shipping_delta.py", "shipping_fleet.py",
                "shipping_swap.py"}  # fmt: skip
NEED_WORKSPACE = {"night_poison.py", "night_refresh.py"}
HELPERS = {"run.py", "contract_data.py", "edge_fuzz.py"}


def main() -> None:
    options = _options()
    failed = []
    for script in sorted(HERE.glob("*.py")):
        if script.name in HELPERS or options.only not in script.name:
            continue
        arguments = _arguments(script.name, options)
        if arguments is None:
            needs = "--workspace" if script.name in NEED_WORKSPACE else "--bundle"
            print(f"\n## {script.name}: left out, it needs {needs}", flush=True)
            continue
        print(f"\n## {script.name}", flush=True)
        begun = time.monotonic()
        done = subprocess.run([sys.executable, str(script), *arguments], check=False)
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
        if done.returncode:
            failed.append(script.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _arguments(name: str, options: argparse.Namespace) -> list[str] | None:
    if name in NEED_WORKSPACE:
        return options.workspace and ["--workspace", str(options.workspace)]
    if name not in NEED_BUNDLES:
        return []
    return options.bundle and ["--bundle", str(options.bundle)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a script's name")
    parser.add_argument("--bundle", type=Path, help="folder of a trained bundle")
    parser.add_argument("--workspace", type=Path, help="left by student_banking77.py --workspace")
    return parser.parse_args()


if __name__ == "__main__":
    main()
