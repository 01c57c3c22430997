"""One way to a Redis server: how it is reached, whether it keeps rows, what its errors mean.

Used by the log, which must never lose a row it acknowledged, and by the state that gateways share.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from understudy.types.errors import ConfigError, DataError, LinkDownError, OverloadedError

_log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_OLDEST = (6, 2)
_REFUSALS = ("OOM", "MISCONF", "READONLY", "NOREPLICAS", "LOADING", "BUSY", "CLUSTERDOWN")
"""First words of errors with which a server refuses writes for now."""


class RedisServer:
    """A connection pool with our errors. Thread-safe.

    Attributes:
        client: The client library's own; call it inside `errors()` only.
        waits_for_disk: True if each write must be followed by WAITAOF to be durable.
    """

    def __init__(self, url: str) -> None:
        """Takes an address such as `redis://127.0.0.1:6379/0`; connects when first used.

        Raises:
            ConfigError: If the client library is missing or the URL is none.
        """
        try:
            import redis
        except ImportError as error:
            raise ConfigError("Redis needs: pip install 'understudy[cloud]'") from error
        self.client: Any
        make: Any = redis.Redis.from_url
        try:
            # Protocol 2: the reply shapes of streams differ in 3, and 6.2 servers know both.
            self.client = make(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, protocol=2
            )
        except ValueError as error:
            raise ConfigError(f"log.url: {error}") from error
        self.waits_for_disk = False
        self._url = url

    def require_durable(self) -> None:
        """Passes if the server keeps every write it confirms.

        Raises:
            ConfigError: Names the setting of the server that must change.
            LinkDownError: If the server cannot be reached.
        """
        with self.errors():
            info = self.client.info()
        version = _version(info)
        if version < _OLDEST:
            raise ConfigError(f"Redis {info['redis_version']} is too old; 6.2 is the oldest")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"the Redis server evicts rows under pressure ('maxmemory-policy {policy}'); "
                "set 'maxmemory-policy noeviction'"
            )
        if not info.get("aof_enabled"):
            raise ConfigError(
                "the Redis server forgets acknowledged rows when it dies; set 'appendonly yes'"
            )
        self._choose_sync(version)

    def confirm(self) -> None:
        """Returns when what was written is on the server's disk.

        Raises:
            OverloadedError: If the disk does not keep up.
        """
        if not self.waits_for_disk:
            return
        with self.errors():
            local, _ = self.client.execute_command("WAITAOF", 1, 0, int(_TIMEOUT_S * 500))
        if not local:
            raise OverloadedError("the Redis server does not get its rows to disk in time", 1.0)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Maps the client library's errors to ours."""
        from redis import exceptions

        theirs: Any = exceptions  # its type stubs are older than it
        try:
            yield
        except (theirs.BusyLoadingError, theirs.ReadOnlyError, theirs.OutOfMemoryError) as error:
            raise OverloadedError(f"the Redis server refuses writes: {error}", 1.0) from error
        except theirs.ResponseError as error:
            raise _refusal(error) from error
        except (theirs.RedisError, OSError) as error:
            raise LinkDownError(f"the Redis server cannot be reached: {error}") from error

    def close(self) -> None:
        """Closes the connections; safe to repeat."""
        self.client.close()

    def _choose_sync(self, version: tuple[int, int]) -> None:
        try:
            with self.errors():
                sync = self.client.config_get("appendfsync").get("appendfsync", "")
        except DataError:
            sync = ""  # managed services hide their configuration
        self.waits_for_disk = sync != "always" and version >= (7, 2)
        if sync in {"everysec", "no"} and not self.waits_for_disk:
            raise ConfigError(
                f"the Redis server may lose acknowledged rows ('appendfsync {sync}'); "
                "set 'appendfsync always', or use a server with WAITAOF (7.2)"
            )
        if not sync and not self.waits_for_disk:
            _log.warning("the Redis server does not say how it syncs; see that it does so always")


def _version(info: dict[str, Any]) -> tuple[int, int]:
    major, minor = str(info["redis_version"]).split(".")[:2]
    return int(major), int(minor)


def _refusal(error: Exception) -> OverloadedError | DataError:
    text = str(error)
    if any(word in text for word in _REFUSALS):
        return OverloadedError(f"the Redis server refuses writes: {text}", 1.0)
    return DataError(f"the Redis server holds something else under our keys: {text}")
