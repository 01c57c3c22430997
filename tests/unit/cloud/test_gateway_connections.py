"""A connection is ended by its socket: the right one, once, after it has been deaf."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest

from understudy.cloud.gateway.connections import Cutter, deafen, find, parse_peer

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listening:
        yield listening


def connect(listener: socket.socket) -> Pair:
    caller = socket.create_connection(listener.getsockname()[:2], timeout=5)
    accepted, _ = listener.accept()
    return caller, accepted


def peer_of(caller: socket.socket) -> str:
    """As gRPC writes it."""
    host, port = caller.getsockname()[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def test_only_the_named_connection_goes_deaf(listener: socket.socket) -> None:
    """The neighbour of a flood does not notice, and the flood does not notice for a while."""
    flood, calm = connect(listener), connect(listener)
    with closing(flood[0]), closing(flood[1]), closing(calm[0]), closing(calm[1]):
        found = find(peer_of(flood[0]))
        assert found is not None
        with found:
            deafen(found)
        flood[0].sendall(b"flood")
        calm[0].sendall(b"calm")

        flood[1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            flood[1].recv(5)
        assert b"calm" == calm[1].recv(4)
        flood[1].sendall(b"an answer")
        assert b"an answer" == flood[0].recv(9)


def test_a_connection_that_is_gone_is_none(listener: socket.socket) -> None:
    caller, accepted = connect(listener)
    peer = peer_of(caller)
    caller.close()
    accepted.close()

    assert find(peer) is None


@pytest.mark.parametrize("peer", ["", "unix:/tmp/x", "unknown", "ipv4:127.0.0.1", "ipv4:x:1"])
def test_what_is_no_network_address_is_cut_nowhere(peer: str) -> None:
    assert parse_peer(peer) is None
    assert find(peer) is None


def test_an_ipv4_caller_of_an_ipv6_socket_is_one_address() -> None:
    """A server on [::] sees IPv4 callers as IPv6 ones."""
    assert parse_peer("ipv4:10.0.0.1:5") == parse_peer("ipv6:[::ffff:10.0.0.1]:5")


async def test_many_calls_of_one_connection_end_it_once(listener: socket.socket) -> None:
    """Each of a flood's calls asks for it."""
    caller, accepted = connect(listener)
    with closing(caller), closing(accepted):
        cutter = Cutter(deaf_s=0.0)
        begun = [cutter.cut(peer_of(caller)) for _ in range(50)]

        assert b"" == await asyncio.to_thread(caller.recv, 1)
        assert 1 == sum(begun)


def talk_until_deaf(caller: socket.socket, accepted: socket.socket) -> None:
    accepted.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            caller.sendall(b"x")
            accepted.recv(1)


@pytest.mark.parametrize(
    "until",
    [
        pytest.param(lambda *pair: asyncio.to_thread(talk_until_deaf, *pair), id="deaf"),
        pytest.param(lambda *_: asyncio.sleep(0), id="still looked for"),
    ],
)
async def test_a_gateway_that_stops_ends_what_it_has_begun_to_end(
    listener: socket.socket, until: Callable[..., Awaitable[None]]
) -> None:
    """No flooding client may hold a rolling update up, and no socket of ours stays open."""
    caller, accepted = connect(listener)
    with closing(caller), closing(accepted):
        cutter = Cutter(deaf_s=3600.0)
        cutter.cut(peer_of(caller))
        (ending,) = cutter._ending.values()
        await until(caller, accepted)
        ending.cancel()

        assert b"" == await asyncio.to_thread(caller.recv, 1)


async def test_too_many_deaf_connections_end_at_once() -> None:
    """Each keeps memory; a node with a thousand connections must not keep a thousand."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pairs = [connect(listening) for _ in range(66)]
        cutter = Cutter(deaf_s=3600.0)
        for caller, _ in pairs:
            cutter.cut(peer_of(caller))
        assert b"" == await asyncio.to_thread(pairs[-1][0].recv, 1)
        pairs[0][0].setblocking(False)
        with pytest.raises(BlockingIOError):
            pairs[0][0].recv(1)
        for task in list(cutter._ending.values()):
            task.cancel()
        for pair in pairs:
            for one in pair:
                one.close()
