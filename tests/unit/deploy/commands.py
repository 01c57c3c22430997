"""Whether a command that a unit or an image runs is one that people can type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer


def options_of(words: Sequence[str]) -> set[str]:
    """The options of the command that the words name; `understudy` left out.

    Raises:
        LookupError: If there is no such command.
    """
    from understudy.cli.main import app

    command: Any = typer.main.get_command(app)
    for word in words:
        if word.startswith("-") or not hasattr(command, "commands"):
            break
        found = command.commands.get(word)
        if found is None:
            raise LookupError(f"there is no command 'understudy {' '.join(words)}'")
        command = found
    return {name for option in command.params for name in option.opts}


def check(words: Sequence[str]) -> None:
    """Passes if the command exists and knows the options.

    Raises:
        LookupError: Names what is not known.
    """
    known = options_of(words)
    for word in words:
        if word.startswith("-") and word not in known:
            raise LookupError(f"'understudy {' '.join(words)}' has no option {word}")
