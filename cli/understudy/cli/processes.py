"""Child processes that never outlive us: not after an error, not after Ctrl-C, not after SIGKILL.

Each child leads a session of its own and holds the reading end of a pipe as its standard input.
When we are gone, however we went, the pipe closes and the child ends itself; until then we end it
and everything it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from understudy.types.errors import ConfigError

TERM_GRACE_S = 15.0


class Child:
    """One child process with its output in a log file.

    Attributes:
        log: Where its standard error, and output unless piped, goes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        pipe_output: bool = False,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if pipe_output else file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def input(self) -> IO[bytes]:
        """The child's standard input."""
        if self._process.stdin is None:
            raise ConfigError("the child has no input")
        return self._process.stdin

    @property
    def output(self) -> IO[bytes]:
        """The child's standard output, when piped."""
        if self._process.stdout is None:
            raise ConfigError("the child's output goes to its log")
        return self._process.stdout

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    def alive(self) -> bool:
        """True while it runs."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout_s: float) -> None:
        """Waits for a condition while the child lives.

        Raises:
            ConfigError: If it ends, or the time runs out; the message shows its last words.
        """
        give_up = time.monotonic() + timeout_s
        while not ready():
            if not self.alive():
                raise ConfigError(f"{what} ended early: {self.last_words()}")
            if time.monotonic() > give_up:
                raise ConfigError(f"{what} was not ready in {timeout_s:g} s: {self.last_words()}")
            time.sleep(0.05)

    def wait(self, timeout_s: float) -> int:
        """Its exit code.

        Raises:
            ConfigError: If it does not end in time.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"process {self.pid} did not end in {timeout_s:g} s") from error

    def last_words(self) -> str:
        """The last line of its log that says something."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"nothing was written to {self.log}"

    def kill(self) -> None:
        """SIGKILL to its whole group, without a word."""
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends it and all it started: asked first, then not asked; safe to repeat."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self.alive():
            _signal_group(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TERM_GRACE_S)
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()


def end_with_parent(descriptor: int) -> None:
    """Sends SIGTERM to this process when a pipe that the parent holds open ends."""

    def watch() -> None:
        # Unbuffered: a buffered stream would hold its lock while the interpreter shuts down.
        while os.read(descriptor, 1024):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
