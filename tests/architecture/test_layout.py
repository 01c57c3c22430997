"""Every tool looks at the same source roots, and nothing hides one part behind another.

Seen failing: with a root missing from a list, with a stray `understudy/__init__.py`, with a module
directly in a root.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = {path.parent.name for path in ROOT.glob("*/understudy") if path.is_dir()}


def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def lists() -> dict[str, set[str]]:
    tool = settings()["tool"]
    wheel = tool["hatch"]["build"]["targets"]["wheel"]
    return {
        "wheel packages": {name.removesuffix("/understudy") for name in wheel["packages"]},
        "dev-mode-dirs": set(tool["hatch"]["build"]["dev-mode-dirs"])
        if "dev-mode-dirs" in tool["hatch"]["build"]
        else set(wheel["dev-mode-dirs"]),
        "mypy files": set(tool["mypy"]["files"]) - {"tests"},
        "mypy path": set(tool["mypy"]["mypy_path"].split(":")) - {"tests"},
        "pyright include": set(tool["pyright"]["include"]) - {"tests"},
        "pyright extraPaths": set(tool["pyright"]["extraPaths"]) - {"tests"},
        "ruff src": set(tool["ruff"]["src"]) - {"tests"},
        "coverage source": set(tool["coverage"]["run"]["source"]),
    }


@pytest.mark.parametrize("name", sorted(lists()))
def test_a_list_of_source_roots_names_exactly_the_roots(name: str) -> None:
    # A root forgotten in one tool's list is skipped in silence.
    assert lists()[name] == ROOTS


def test_the_folders_promised_to_users_are_there() -> None:
    promised = {"edge", "cloud", "protos", "router", "distill_loop", "deploy", "tests"}

    assert promised <= {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_no_module_lies_directly_in_a_root_or_in_the_namespace() -> None:
    # A root is on sys.path; an understudy/__init__.py would hide every other root.
    stray = [
        path.relative_to(ROOT)
        for root in sorted(ROOTS)
        for folder in (ROOT / root, ROOT / root / "understudy")
        for path in folder.glob("*.py")
    ]

    assert [] == stray


def test_every_part_ships_its_types() -> None:
    parts = [part for root in ROOTS for part in (ROOT / root / "understudy").iterdir()]
    parts = [part for part in parts if part.is_dir() and not part.name.startswith("__")]

    assert [] == [part.name for part in parts if not (part / "py.typed").exists()]
