"""A connection is ended by its socket: the right one, once, and only ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from understudy.cloud.gateway.connections import Cutter, cut, parse_peer

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


def test_only_the_named_connection_ends(listener: socket.socket) -> None:
    """The neighbour of a flood does not notice."""
    flood, calm = connect(listener), connect(listener)
    with closing(flood[0]), closing(flood[1]), closing(calm[0]), closing(calm[1]):
        assert cut(peer_of(flood[0]))

        assert b"" == flood[0].recv(1)
        calm[1].sendall(b"x")
        assert b"x" == calm[0].recv(1)


def test_a_connection_that_is_gone_is_none(listener: socket.socket) -> None:
    caller, accepted = connect(listener)
    peer = peer_of(caller)
    caller.close()
    accepted.close()

    assert not cut(peer)


@pytest.mark.parametrize("peer", ["", "unix:/tmp/x", "unknown", "ipv4:127.0.0.1", "ipv4:x:1"])
def test_what_is_no_network_address_is_cut_nowhere(peer: str) -> None:
    assert parse_peer(peer) is None
    assert not cut(peer)


def test_an_ipv4_caller_of_an_ipv6_socket_is_one_address() -> None:
    """A server on [::] sees IPv4 callers as IPv6 ones."""
    assert parse_peer("ipv4:10.0.0.1:5") == parse_peer("ipv6:[::ffff:10.0.0.1]:5")


async def test_many_calls_of_one_connection_cut_it_once() -> None:
    """Each of a flood's calls asks for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        caller, accepted = connect(listening)
        with closing(caller), closing(accepted):
            cutter = Cutter()
            done = await asyncio.gather(*(cutter.cut(peer_of(caller)) for _ in range(50)))

    assert 1 == sum(done)
