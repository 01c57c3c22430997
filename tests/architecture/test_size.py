"""Sizes are budgeted: a flow fits on a screen, a module is read in one sitting."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("protos", "router", "edge", "cloud", "distill_loop", "cli")
LONGEST_FUNCTION = 40
LONGEST_MODULE = 420


def sources() -> Iterator[Path]:
    for root in ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def body_lengths(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of each function's body, its docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and body[-1].end_lineno is not None:
                length = body[-1].end_lineno - body[0].lineno + 1
                yield length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def test_no_function_is_longer_than_a_screen() -> None:
    found = [item for path in sources() for item in body_lengths(path)]

    assert [] == [item for item in found if item[0] > LONGEST_FUNCTION]


def test_the_median_function_has_ten_lines_or_less() -> None:
    lengths = [length for path in sources() for length, _ in body_lengths(path)]

    assert statistics.median(lengths) <= 10


def test_no_module_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > LONGEST_MODULE
    }

    assert {} == long
