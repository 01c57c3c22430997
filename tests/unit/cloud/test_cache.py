"""The exact cache: bounded, separate per teacher and label set, never in the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from simulators.cloud_gateway import LABELS, label
from simulators.cloud_redis import RedisProcess
from understudy.cloud.cache import MemoryCache, RedisCache, answer_key
from understudy.types.errors import ConfigError


def test_everything_an_answer_depends_on_is_in_its_key() -> None:
    """Another teacher or another label set must never answer from here."""
    keys = {
        answer_key(teacher, task, labels, text)
        for teacher in ("t1", "t2")
        for task in ("a", "b")
        for labels in (("x", "y"), ("xy",), ("x", "y", ""))
        for text in ("hi", "hi ")
    }

    assert 2 * 2 * 3 * 2 == len(keys)


def test_the_least_used_answer_goes_first() -> None:
    """Memory is bounded; what is asked again stays."""

    async def run() -> list[bool]:
        cache = MemoryCache(max_entries=2, ttl_s=60)
        await cache.put("a", label())
        await cache.put("b", label())
        await cache.get("a")
        await cache.put("c", label())
        return [await cache.get(key) is not None for key in "abc"]

    assert [True, False, True] == asyncio.run(run())


def test_an_answer_runs_out() -> None:
    """Teachers are retrained; yesterday's answer is not for ever."""
    now = [0.0]

    async def run() -> list[bool]:
        cache = MemoryCache(max_entries=2, ttl_s=10, clock=lambda: now[0])
        await cache.put("a", label())
        found = [await cache.get("a") is not None]
        now[0] = 10.0
        found += [await cache.get("a") is not None, len(cache) == 0]
        await cache.close()
        return found

    assert [True, False, True] == asyncio.run(run())


def test_gateways_share_answers_through_redis(tmp_path: Path) -> None:
    """What one gateway learned the other need not ask."""

    async def run(url: str) -> tuple[object, object]:
        first, second = RedisCache(url, ttl_s=60), RedisCache(url, ttl_s=60)
        await first.put("a", label(LABELS[1]))
        found = await second.get("a"), await second.get("b")
        await first.close()
        await second.close()
        return found

    with RedisProcess(tmp_path) as server:
        assert (label(LABELS[1]), None) == asyncio.run(run(server.url))


def test_a_cache_that_is_away_knows_nothing_and_raises_nothing(tmp_path: Path) -> None:
    """It makes answers faster; it must never cost one."""
    server = RedisProcess(tmp_path)  # never started: nobody listens there

    async def run() -> object:
        cache = RedisCache(server.url, ttl_s=60)
        await cache.put("a", label())
        found = await cache.get("a")
        await cache.close()
        return found

    assert asyncio.run(run()) is None


def test_an_address_that_is_none_is_said() -> None:
    """A person must edit the file."""
    with pytest.raises(ConfigError, match=r"cache\.url"):
        RedisCache("localhost:6379", ttl_s=1)
