"""The documents, and the blocks in them that a test runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("examples/**/*.md"),
        *(ROOT / part / "README.md" for part in ("deploy", "cloud", "edge", "distill_loop")),
    }
)
BLOCK = re.compile(
    r"<!-- runnable -->\n```(?P<language>\w+)\n(?P<shown>.*?)\n```"
    r"|<!-- runnable\n(?P<hidden>.*?)\n-->",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """Code that is run as if a reader had typed it."""

    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """What a page wants to have run, in order."""
    return [
        Block(found["language"] or "shell", found["shown"] or found["hidden"])
        for found in BLOCK.finditer(page.read_text("utf-8"))
    ]
