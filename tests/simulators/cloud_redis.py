"""A real `redis-server` on a free port with a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis


class RedisProcess:
    """Starts, kills and starts again; `url` stays the same."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers, with what its folder holds."""
        program = shutil.which("redis-server")
        assert program, "the tests need redis-server: apt-get install redis-server"
        words = ["--port", str(self.port), "--dir", str(self._folder), "--save", ""]
        log = (self._folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [program, "--bind", "127.0.0.1", *words, *self._settings], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "redis.log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed that was not on disk."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *words: str) -> Any:
        """One command over a connection of its own."""
        client: Any = redis.Redis(port=self.port)
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return False


DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
"""What the log asks of a server."""
