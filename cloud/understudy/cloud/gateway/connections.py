"""Ends a connection that gRPC for Python gives no handle for: by the socket that this process owns.

The kernel tells who is at the other end of each of our sockets. Shutting one down is what a lost
network does, and gRPC cleans up after it. Linux only; elsewhere nothing is cut, and flooding nodes
are only slowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

_OPEN_FILES = Path("/proc/self/fd")
_PEER = re.compile(r"ipv[46]:\[?(?P<host>[0-9a-fA-F.:]+)(?:%[^\]]*)?\]?:(?P<port>[0-9]+)")


class Cutter:
    """Cuts each connection once, beside the event loop, however many calls ask for it."""

    def __init__(self) -> None:
        self._cutting: set[str] = set()

    async def cut(self, peer: str) -> bool:
        """Shuts the connection down; True for the one caller that did it."""
        if peer in self._cutting:
            return False
        self._cutting.add(peer)
        try:
            return await asyncio.to_thread(cut, peer)
        finally:
            self._cutting.discard(peer)


def cut(peer: str) -> bool:
    """Shuts down our connection to a peer, as gRPC writes it; tells whether there was one.

    Blocks for some microseconds per open file of this process.
    """
    wanted = parse_peer(peer)
    if wanted is None:
        return False
    for connection in _connections():
        with contextlib.suppress(OSError):  # a listening socket, or one that has just been closed
            if _address(connection) == wanted:
                connection.shutdown(socket.SHUT_RDWR)
                return True
    return False


def parse_peer(peer: str) -> tuple[str, int] | None:
    """Host and port of `ipv4:127.0.0.1:50000` or `ipv6:[::1]:50000`; None for anything else."""
    found = _PEER.fullmatch(peer.replace("%5B", "[").replace("%5D", "]"))
    return None if found is None else _plain(found["host"], int(found["port"]))


def _connections() -> Iterator[socket.socket]:
    """Our network sockets, each as a duplicate that is closed again.

    A duplicate stays what it is while we look at it, even if gRPC closes its own meanwhile.
    """
    for file in list(_OPEN_FILES.iterdir()) if _OPEN_FILES.is_dir() else []:
        with contextlib.suppress(OSError):
            if not file.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(file.name))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6):
                    yield found


def _address(connection: socket.socket) -> tuple[str, int]:
    host, port = connection.getpeername()[:2]
    return _plain(host, port)


def _plain(host: str, port: int) -> tuple[str, int]:
    """The same for an IPv4 address and for how IPv6 writes it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), port
