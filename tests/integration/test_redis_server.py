"""Which Redis servers may hold the log, and what else only a real one shows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from simulators.cloud_gateway import record
from simulators.cloud_redis import DURABLE, RedisProcess
from simulators.redis_proxy import proxied
from understudy.cloud.log import NewRow
from understudy.cloud.log import redis_streams as streams
from understudy.cloud.log.redis_streams import open_redis_log
from understudy.cloud.redis_server import RedisServer
from understudy.types.errors import ConfigError, DataError, LinkDownError, OverloadedError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param(
            ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"],
            "set 'maxmemory-policy noeviction'",
            id="evicts",
        ),
        pytest.param(["--appendonly", "no"], "set 'appendonly yes'", id="forgets"),
        pytest.param(
            ["--appendonly", "yes", "--appendfsync", "everysec"],
            "set 'appendfsync always', or use a server with WAITAOF",
            id="may lose a second",
        ),
    ],
)
def test_a_server_that_may_lose_rows_is_refused_at_the_start(
    tmp_path: Path, settings: list[str], words: str
) -> None:
    """Silently, it would break the one promise of the log; the message names the setting."""
    with RedisProcess(tmp_path, *settings) as server:
        if "everysec" in settings and _has_waitaof(server):
            pytest.skip("this server has WAITAOF, so 'everysec' is safe here")

        with pytest.raises(ConfigError) as caught:
            open_redis_log(server.url)

    assert words in str(caught.value)


def test_where_the_server_can_wait_for_its_disk_each_append_does(tmp_path: Path) -> None:
    """A server that syncs once a second is safe then: acknowledged means that the disk has it."""
    settings = ("--appendonly", "yes", "--appendfsync", "everysec")
    with RedisProcess(tmp_path, *settings) as server, proxied(server.port) as proxy:
        with contextlib.closing(open_redis_log(proxy.url)) as log:
            log.append([NewRow(record(node="n1"))])
            log.acknowledge("night", [row.sequence for row in log.read("night", 5)])
            waited = proxy.waited
            proxy.synced = False

            with pytest.raises(OverloadedError, match="does not get its rows to disk"):
                log.append([NewRow(record(node="n1"))])

        assert 2 == waited


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Nobody listens at that port."""
    with pytest.raises(LinkDownError, match="cannot be reached"):
        open_redis_log(RedisProcess(tmp_path).url)


def test_an_address_that_is_none_is_said() -> None:
    """A person must edit the file."""
    with pytest.raises(ConfigError, match=r"log\.url"):
        open_redis_log("localhost")


def test_keys_that_are_not_ours_are_not_touched(tmp_path: Path) -> None:
    """Somebody else's list under our name: say so, change nothing."""
    with RedisProcess(tmp_path, *DURABLE) as server:
        server.command("RPUSH", "{understudy:default}:stream", "theirs")
        with contextlib.closing(open_redis_log(server.url)) as log:
            with pytest.raises(DataError, match="something else under our keys"):
                log.append([NewRow(record(node="n"))])

            assert 1 == server.command("LLEN", "{understudy:default}:stream")


def test_a_full_server_takes_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    """`noeviction`: what is there stays, what comes is refused until there is room."""
    with (
        RedisProcess(tmp_path, *DURABLE) as server,
        contextlib.closing(open_redis_log(server.url)) as log,
    ):
        stored = log.append([NewRow(record(node="n"))])
        server.command("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(OverloadedError, match="refuses writes"):
            log.append([NewRow(record(node="n"))])

        assert stored == list(log.scan())


def test_every_row_survives_a_kill(tmp_path: Path) -> None:
    """Acknowledged is on disk: labels, acknowledgements and all."""
    with RedisProcess(tmp_path, *DURABLE) as server:
        with contextlib.closing(open_redis_log(server.url)) as log:
            stored = log.append([NewRow(record(node="n")) for _ in range(5)])
            log.acknowledge("night", [row.sequence for row in log.read("night", 2)])
        server.kill()
        server.start()
        with contextlib.closing(open_redis_log(server.url)) as log:
            assert stored == list(log.scan())
            assert stored[2:] == log.read("night", 10)


def test_rows_of_a_reader_that_died_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights on two machines share the work; one of them never comes back."""
    monkeypatch.setattr(streams, "_CLAIM_IDLE_MS", 0)
    with (
        RedisProcess(tmp_path, *DURABLE) as server,
        contextlib.closing(open_redis_log(server.url, reader="first")) as first,
        contextlib.closing(open_redis_log(server.url, reader="second")) as second,
    ):
        stored = first.append([NewRow(record(node="n")) for _ in range(4)])
        assert stored[:2] == first.read("night", 2)

        assert stored == second.read("night", 10)


def test_two_readers_share_the_rows(tmp_path: Path) -> None:
    """While both are alive no row is in two hands."""
    with (
        RedisProcess(tmp_path, *DURABLE) as server,
        contextlib.closing(open_redis_log(server.url, reader="first")) as first,
        contextlib.closing(open_redis_log(server.url, reader="second")) as second,
    ):
        stored = first.append([NewRow(record(node="n")) for _ in range(4)])

        assert stored == first.read("night", 2) + second.read("night", 2)


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    """One server, two clouds."""
    with (
        RedisProcess(tmp_path, *DURABLE) as server,
        contextlib.closing(open_redis_log(server.url, tenant="a")) as ours,
        contextlib.closing(open_redis_log(server.url, tenant="b")) as theirs,
    ):
        ours.append([NewRow(record(node="n"))])

        assert [] == list(theirs.scan())


def _has_waitaof(server: RedisProcess) -> bool:
    probe = RedisServer(server.url)
    try:
        version = str(probe.client.info("server")["redis_version"]).split(".")
        return (int(version[0]), int(version[1])) >= (7, 2)
    finally:
        probe.close()
