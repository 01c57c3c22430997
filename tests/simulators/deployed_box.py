"""One machine laid out as the systemd units lay it out, under another root.

The commands, the variables and the configurations are those of `deploy`; only paths and ports are
moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulators.cloud_gateway import wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROGRAM = "/usr/local/bin/understudy"
STATE, ETC = "/var/lib/understudy", "/etc/understudy"
PORTS = ("7443", "7444", "7480", "8090", "8091")
PATIENCE_S = 500.0
"""For what takes seconds on a quiet machine and minutes on a busy one; the test's own time-out is
what bounds the whole."""


def unit(name: str) -> dict[str, list[str]]:
    """Every value of each key of a systemd unit."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / f"understudy-{name}.service").read_text().splitlines():
        key, found, value = line.partition("=")
        if found and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


def command(name: str) -> tuple[str, ...]:
    """What a unit starts, without the program."""
    (line,) = unit(name)["ExecStart"]
    program, *words = shlex.split(line)
    assert program == PROGRAM
    return tuple(words)


UNITS = {name: command(name) for name in ("cloud", "edge", "night")}


def free_ports() -> dict[str, str]:
    """A free port for each that the examples name."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        return {port: str(s.getsockname()[1]) for port, s in zip(PORTS, held, strict=True)}


@dataclass
class Box:
    """Runs what the units run."""

    root: Path
    ports: Mapping[str, str] = field(default_factory=free_ports)

    @property
    def state(self) -> Path:
        """What the units call their state directory."""
        return self.root / "state"

    def moved(self, text: str) -> str:
        """A text with this box's paths and ports."""
        text = text.replace(STATE, str(self.state)).replace(ETC, str(self.root / "etc"))
        return re.sub("|".join(PORTS), lambda found: self.ports[found[0]], text)

    def configure(self, name: str, *, drop: str = "", add: str = "") -> None:
        """Takes the example of `deploy/config`, without one section, with what is added."""
        text = (DEPLOY / "config" / f"{name}.yaml").read_text()
        if drop:
            text, dropped = re.subn(rf"(?ms)^{drop}:.*?\n(?=\S)", "", text)
            assert dropped == 1
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc" / f"{name}.yaml").write_text(self.moved(text) + add)

    def run(self, *words: str, name: str = "cloud") -> str:
        """One command to its end; fails with what it said."""
        done = subprocess.run(
            self._line(words),
            cwd=self.state,
            env=self._environment(name),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def service(self, name: str, ready: str) -> Iterator[None]:
        """A unit's process, once its address answers; SIGTERM must end it well."""
        process = subprocess.Popen(
            self._line(UNITS[name]), cwd=self.state, env=self._environment(name)
        )
        try:
            self.await_(lambda: self.ask(ready) is not None or process.poll() is not None)
            assert process.poll() is None
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()

    def await_(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds; leaves the processors to those who must fulfil it."""
        wait_until(condition, PATIENCE_S, every_s=0.25)

    def ask(self, address: str, body: dict[str, Any] | None = None) -> str | None:
        """What an address of this box says; None while it says nothing or no."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.moved(address)}",
            json.dumps(body).encode() if body else None,
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - of this box
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return None

    def series(self, name: str) -> float:
        """The sum over one series of the gateway's metrics, by its name and first labels."""
        lines = (self.ask("7480/metrics") or "").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def _line(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "understudy.cli", *map(self.moved, words)]

    def _environment(self, name: str) -> dict[str, str]:
        """This process's without settings of ours, and what the unit sets."""
        mine = {key: v for key, v in os.environ.items() if not key.startswith("UNDERSTUDY_")}
        of_unit = dict(value.split("=", 1) for value in unit(name).get("Environment", []))
        moved = {key: self.moved(value) for key, value in of_unit.items()}
        passphrase = {"UNDERSTUDY_PASSPHRASE": "passphrase of a test"}
        return mine | moved | passphrase | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
