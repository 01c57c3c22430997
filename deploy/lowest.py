"""Prints what the extras need, one requirement a line, without the packages that are named.

    python deploy/lowest.py sidecar cloud --without torch ray

For `deploy/lowest.sh`, which resolves these lines to the lowest versions they allow.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(extras: list[str], without: set[str]) -> list[str]:
    """The core's requirements and those of the extras, each once.

    Raises:
        KeyError: If there is no such extra.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    optional = project["optional-dependencies"]
    lines = dict.fromkeys([*project["dependencies"], *(r for e in extras for r in optional[e])])
    return [line for line in lines if name_of(line) not in without]


def name_of(requirement: str) -> str:
    """The package's name without extras, versions and markers."""
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]


def main() -> int:
    """Prints the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--without", nargs="*", default=[])
    asked = parser.parse_args()
    print("\n".join(requirements(asked.extras, set(asked.without))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
