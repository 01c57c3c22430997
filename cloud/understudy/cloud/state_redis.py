"""Shared state in Redis, beside the log: for gateways on several machines."""

from __future__ import annotations

from understudy.cloud.redis_server import RedisServer

# KEYS: hash; ARGV: field, 1 if a value is expected, that value, new value.
_SWAP = """
local present = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '1' then
  if present ~= ARGV[3] then return 0 end
elseif present then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
return 1
"""


class RedisState:
    """See `SharedState`. A key reads `kind/name`; each kind is one hash."""

    def __init__(self, url: str, *, tenant: str) -> None:
        """Connects when first used.

        Raises:
            ConfigError: If the client library is missing or the URL is none.
        """
        self._server = RedisServer(url)
        self._redis = self._server.client
        self._tenant = tenant
        self._swap = self._redis.register_script(_SWAP)

    def get(self, key: str) -> bytes | None:
        with self._server.errors():
            value: bytes | None = self._redis.hget(*self._place(key))
        return value

    def put(self, key: str, value: bytes) -> None:
        with self._server.errors():
            self._redis.hset(*self._place(key), value)

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        place, field = self._place(key)
        arguments = [field, int(expected is not None), expected or b"", value]
        with self._server.errors():
            return bool(self._swap(keys=[place], args=arguments))

    def delete(self, key: str) -> None:
        with self._server.errors():
            self._redis.hdel(*self._place(key))

    def items(self, prefix: str) -> dict[str, bytes]:
        place, start = self._place(prefix)
        with self._server.errors():
            found = self._redis.hgetall(place)
        kind = prefix.partition("/")[0]
        names = {field.decode(): value for field, value in found.items()}
        return {f"{kind}/{n}": value for n, value in names.items() if n.startswith(start)}

    def close(self) -> None:
        self._server.close()

    def _place(self, key: str) -> tuple[str, str]:
        kind, _, name = key.partition("/")
        return f"{{understudy:{self._tenant}}}:state:{kind}", name
