"""Runs the quick form of every benchmark that needs nothing but the public data; `make bench`.

A benchmark that needs a trained bundle runs when --bundle names one. The full forms, and what they
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
HELPERS = {"run.py", "contract_data.py", "edge_fuzz.py"}


def main() -> None:
    options = _options()
    failed = []
    for script in sorted(HERE.glob("*.py")):
        if script.name in HELPERS or options.only not in script.name:
            continue
        arguments = _arguments(script.name, options.bundle)
        if arguments is None:
            print(f"\n## {script.name}: left out, it needs --bundle", flush=True)
            continue
        print(f"\n## {script.name}", flush=True)
        begun = time.monotonic()
        done = subprocess.run([sys.executable, str(script), *arguments], check=False)
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
        if done.returncode:
            failed.append(script.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _arguments(name: str, bundle: Path | None) -> list[str] | None:
    if name not in NEED_BUNDLES:
        return []
    return None if bundle is None else ["--bundle", str(bundle)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a script's name")
    parser.add_argument("--bundle", type=Path, help="folder of a trained bundle")
    return parser.parse_args()


if __name__ == "__main__":
    main()
