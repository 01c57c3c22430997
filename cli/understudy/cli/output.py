"""How commands speak: a table for people, JSON for scripts, one progress bar for waiting."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer


class Progress(Protocol):
    """A bar that was begun."""

    def advance(self, steps: int = 1) -> None:
        """Moves on by so many steps."""
        ...

    def say(self, what: str) -> None:
        """Names what is being done now."""
        ...


def show_fields(value: object, *, as_json: bool) -> None:
    """Prints a frozen value: one `name  value` a line, or one JSON object."""
    fields = plain(value)
    if as_json:
        typer.echo(json.dumps(fields))
        return
    width = max((len(name) for name in fields), default=0)
    for name, field in fields.items():
        typer.echo(f"{name:<{width}}  {_word(field)}")


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool = False
) -> None:
    """Prints rows under their column names, or a JSON list of objects."""
    listed = [list(row) for row in rows]
    if as_json:
        typer.echo(json.dumps([dict(zip(columns, map(plain, row), strict=True)) for row in listed]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in listed:
        table.add_row(*(_word(plain(cell)) for cell in row))
    Console(soft_wrap=True).print(table)


def plain(value: Any) -> Any:  # noqa: ANN401 - any value to what JSON knows
    """Turns a frozen value into what JSON knows; what is infinite or unknown becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """Shows a bar on a terminal's error stream; elsewhere one line at the beginning and the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{title} ...", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with RichProgress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        yield _Bar(bars, bars.add_task(title, total=total))


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:  # noqa: ANN401 - rich's own types
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)

    def say(self, what: str) -> None:
        self._bars.update(self._task, description=what)


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
