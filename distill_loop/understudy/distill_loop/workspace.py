"""Where a night keeps what it made: stages addressed by content, so that a killed night resumes.

A stage's folder is named by a digest of its inputs. It is filled beside its place and renamed into
it, so it is there whole or not at all. One night runs at a time; a night that has ended is recorded
by its name and not run again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from understudy.files import sync, write_atomic
from understudy.types.errors import ConfigError

Fill = Callable[[Path], None]


class Workspace:
    """A folder that belongs to one task's nights."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"<Workspace {self.folder}>"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the workspace; the lock goes with the process, however it ends.

        Raises:
            ConfigError: If another night holds it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the workspace {self.folder} cannot be used: {error}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"another night is running in {self.folder}") from error
            yield
        finally:
            os.close(handle)

    def stage(self, name: str, inputs: Mapping[str, object], fill: Fill) -> Path:
        """The folder of a stage; `fill` is called with an empty folder if it is not there yet."""
        target = self.folder / "stages" / f"{name}-{digest_of(inputs)[:20]}"
        if target.is_dir():
            return target
        unfinished = target.with_name(f".{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        place(unfinished, target)
        return target

    def night(self, name: str) -> dict[str, Any] | None:
        """What is recorded of a night that has ended; None when it has not."""
        try:
            text = (self._nights() / f"{name}.json").read_text("utf-8")
        except FileNotFoundError:
            return None
        recorded: dict[str, Any] = json.loads(text)
        return recorded

    def record_night(self, name: str, result: Mapping[str, Any]) -> None:
        """Records a night's end, durably and whole."""
        self._nights().mkdir(parents=True, exist_ok=True)
        write_atomic(self._nights() / f"{name}.json", to_json(result), mode=0o644)

    def begin(self, name: str, now_unix_s: float) -> float:
        """When the night of that name first began; a night that is resumed keeps its hour.

        Raises:
            ConfigError: If the name cannot be that of a file.
        """
        if not name or name.startswith(".") or "/" in name or len(name) > 100:
            raise ConfigError(f"a night cannot be named '{name}': use a word such as 2026-11-25")
        path = self.path("nights", f".{name}.begun")
        try:
            return float(path.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            write_atomic(path, repr(now_unix_s).encode())
            return now_unix_s

    def unfinished(self, since_unix_s: float) -> str:
        """The last night that began since then and has not ended; empty when there is none."""
        begun = {
            path.name[1 : -len(".begun")]: float(path.read_text("ascii"))
            for path in self._nights().glob(".*.begun")
        }
        names = [n for n, at in begun.items() if at >= since_unix_s and self.night(n) is None]
        return max(names, key=lambda name: begun[name], default="")

    def offered(self, name: str) -> bool:
        """True if what the night of that name made has been handed on."""
        return (self._nights() / f".{name}.offered").exists()

    def mark_offered(self, name: str) -> None:
        """Notes that it has been; only then a repeated night leaves the fleet alone."""
        write_atomic(self._nights() / f".{name}.offered", b"")

    def clock(self) -> dict[str, float]:
        """When a night and when a refresh last ended, seconds since 1970, by `night`, `refresh`."""
        try:
            found: dict[str, float] = json.loads(self.path("clock.json").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def mark(self, what: str, now_unix_s: float) -> None:
        """Notes that a `night` or a `refresh` has ended; a night counts as a refresh too."""
        names = ("night", "refresh") if what == "night" else (what,)
        write_atomic(
            self.path("clock.json"), to_json(self.clock() | dict.fromkeys(names, now_unix_s))
        )

    def nights(self) -> tuple[str, ...]:
        """Names of the nights that have ended, in order of name."""
        ended = (path.stem for path in self._nights().glob("*.json"))
        return tuple(sorted(name for name in ended if not name.startswith(".")))

    def path(self, *parts: str) -> Path:
        """A path inside the workspace, its folder made."""
        target = self.folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _nights(self) -> Path:
        return self.folder / "nights"


def digest_of(inputs: Mapping[str, object]) -> str:
    """sha256 over names and values of a stage's inputs, and our version."""
    text = json.dumps({**inputs, "version": version("understudy")}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def to_json(value: Mapping[str, Any]) -> bytes:
    """Readable JSON; infinity is null."""
    return json.dumps(_finite(value), indent=1, sort_keys=True, ensure_ascii=False).encode()


def place(unfinished: Path, target: Path) -> None:
    """Makes a filled folder durable, then gives it its name."""
    for path in sorted(unfinished.rglob("*")):
        sync(path)
    sync(unfinished)
    unfinished.rename(target)
    sync(target.parent)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    return value
