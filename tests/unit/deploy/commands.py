"""Whether a command that a unit, an image or a document shows is one that people can type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer


class IncompleteError(LookupError):
    """The command exists, and an argument that it needs was left out."""


def path_of(words: Sequence[str]) -> str:
    """The command that the words name, without its options and arguments: `node enroll`."""
    path, _, _ = _find(words)
    return " ".join(path[1:])


def check(words: Sequence[str]) -> None:
    """Passes if our own command line takes these words; nothing is run.

    Args:
        words: What follows `understudy`, options and arguments included.

    Raises:
        IncompleteError: If an argument is missing.
        LookupError: If there is no such command or option, or one argument too many; the text is
            what a person would be told.
    """
    path, command, rest = _find(words)
    if hasattr(command, "commands") and rest[:1] not in (["--help"], ["--version"]):
        raise LookupError(f"there is no command '{' '.join([*path, *rest])}'")
    _parse(command, " ".join(path), rest)


def _find(words: Sequence[str]) -> tuple[list[str], Any, list[str]]:
    from understudy.cli.main import app

    rest, path = list(words), ["understudy"]
    command: Any = typer.main.get_command(app)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        path.append(rest[0])
        command = command.commands[rest.pop(0)]
    return path, command, rest


def _parse(command: Any, path: str, rest: list[str]) -> None:
    """Click's exceptions are told by name: Typer ships a Click of its own."""
    try:
        command.make_context(path, rest)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        missing = {"MissingParameter", "BadOptionUsage"}
        kind = IncompleteError if type(error).__name__ in missing else LookupError
        raise kind(f"'{path}': {error.format_message()}") from error
