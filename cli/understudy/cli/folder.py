"""A folder of our own: emptied before use, and nobody else's ever."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.types.errors import ConfigError, UnderstudyError

MARK = ".understudy"


def prepare_folder(root: Path) -> None:
    """Makes an empty folder; one that an earlier run made is emptied first.

    Raises:
        ConfigError: If the folder holds something that no run of ours made.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; name a folder with --out")
    if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
        raise ConfigError(f"{root} is not empty and not of our making; choose another with --out")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).write_text("made by understudy; may be deleted\n")


@contextmanager
def discarded(root: Path) -> Iterator[None]:
    """Deletes the folder if what is done inside fails for a reason that a person can mend."""
    try:
        yield
    except UnderstudyError:
        shutil.rmtree(root, ignore_errors=True)
        raise
