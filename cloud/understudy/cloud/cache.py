"""Exact answers to identical inputs: off by default, bounded, and never in the way.

The key covers the teacher and how it is asked, task, label set and text, so that no other of these
answers from here. A store that fails counts as one that does not know.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from understudy.cloud.log.rows import decode_label, encode_label
from understudy.types.errors import ConfigError, DataError
from understudy.types.records import TeacherLabel

_log = logging.getLogger(__name__)

_TIMEOUT_S = 0.25


class AnswerCache(Protocol):
    """Answers by key; may forget, may not lie. Never raises."""

    async def get(self, key: str) -> TeacherLabel | None:
        """The answer kept under a key of `answer_key`."""
        ...

    async def put(self, key: str, label: TeacherLabel) -> None:
        """Keeps an answer."""
        ...

    async def close(self) -> None:
        """Frees the store; safe to repeat."""
        ...


def answer_key(teacher: str, task: str, labels: Sequence[str], text: str) -> str:
    """The digest of everything an answer depends on."""
    digest = hashlib.sha256()
    for part in (teacher, task, *labels, text):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


class MemoryCache:
    """The answers asked for last, in this process."""

    def __init__(
        self, *, max_entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, TeacherLabel]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: str) -> TeacherLabel | None:
        found = self._entries.get(key)
        if found is None:
            return None
        expires, label = found
        if expires <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return label

    async def put(self, key: str, label: TeacherLabel) -> None:
        self._entries[key] = (self._clock() + self._ttl_s, label)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    async def close(self) -> None:
        self._entries.clear()


class RedisCache:
    """Answers that several gateways share; bound its memory with Redis's own `maxmemory`."""

    def __init__(self, url: str, *, ttl_s: float) -> None:
        """Connects when first used.

        Raises:
            ConfigError: If the client library is missing or the URL is none.
        """
        try:
            from redis import asyncio as redis
        except ImportError as error:
            raise ConfigError("the Redis cache needs: pip install 'understudy[cloud]'") from error
        try:
            make: Any = redis.Redis.from_url
            self._redis = make(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, protocol=2
            )
        except ValueError as error:
            raise ConfigError(f"cache.url: {error}") from error
        self._ttl_s = ttl_s

    async def get(self, key: str) -> TeacherLabel | None:
        from redis.exceptions import RedisError

        try:
            return decode_label(await self._redis.get(_redis_key(key)))
        except (RedisError, OSError, DataError) as error:
            _log.debug("the cache does not answer: %s", error)
            return None

    async def put(self, key: str, label: TeacherLabel) -> None:
        from redis.exceptions import RedisError

        try:
            life_ms = max(1, round(self._ttl_s * 1000))
            await self._redis.set(_redis_key(key), encode_label(label), px=life_ms)
        except (RedisError, OSError) as error:
            _log.debug("the cache does not take an answer: %s", error)

    async def close(self) -> None:
        await self._redis.aclose()


def _redis_key(key: str) -> str:
    return f"understudy:answer:{key}"
