"""The replay buffer: rows of older nights, so that what is rare is not forgotten.

Class-balanced: each class keeps its share, rows labelled by a person are never evicted, and which
of the others stay is decided by a hash, so that the buffer does not depend on their order.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from understudy.distill_loop.recipe import DataRecipe
from understudy.distill_loop.rows import Example, Origin
from understudy.files import write_atomic

_LOGGED = {Origin.ESCALATION, Origin.AUDIT, Origin.REPLAY}


def refill(rows: Sequence[Example], recipe: DataRecipe, seed: int) -> tuple[Example, ...]:
    """The rows to keep for later nights."""
    by_class: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        if row.target and row.origin in _LOGGED:
            by_class[row.target].append(row)
    share = max(recipe.replay_per_class, recipe.replay_rows // max(len(by_class), 1))
    kept: list[Example] = []
    for name in sorted(by_class):
        order = sorted(by_class[name], key=lambda row: (not row.label, _place(row.id, seed)))
        gold = sum(bool(row.label) for row in order)
        kept += order[: max(share, gold)]
    return tuple(kept)


def read_buffer(path: Path) -> tuple[Example, ...]:
    """The buffer as written; empty when there is none yet."""
    if not path.exists():
        return ()
    lines = path.read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Example) for line in lines)


def write_buffer(path: Path, rows: Sequence[Example]) -> None:
    """Replaces the buffer."""
    write_atomic(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _place(row_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{row_id}".encode()).digest()
