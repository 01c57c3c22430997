"""Ends a connection that gRPC for Python gives no handle for: by the socket that this process owns.

The kernel tells who is at the other end of each of our sockets. A flooding connection first goes
deaf: the kernel drops what arrives, which costs this process nothing, while a client that were cut
off would be back at once with another handshake. Then it is shut down, as a lost network does, and
gRPC cleans up. Linux only; elsewhere nothing is ended, and flooding nodes are only slowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

DEAF_S = 30.0
"""A connection stays deaf so long; a client of ours gives its calls up long before."""
_MOST_DEAF = 64
_OPEN_FILES = Path("/proc/self/fd")
_PEER = re.compile(r"ipv[46]:\[?(?P<host>[0-9a-fA-F.:]+)(?:%[^\]]*)?\]?:(?P<port>[0-9]+)")
_SO_ATTACH_FILTER = 26
_DROP_ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
"""A socket filter of one instruction: of each packet, keep no byte."""


class Cutter:
    """Ends each connection once, beside the calls, however many of them ask for it."""

    def __init__(self, deaf_s: float = DEAF_S) -> None:
        """Takes the seconds that a connection stays deaf before it is shut down."""
        self._deaf_s = deaf_s
        self._finder = ThreadPoolExecutor(1, thread_name_prefix="understudy-cutter")
        self._ending: dict[str, asyncio.Task[None]] = {}

    def cut(self, peer: str) -> bool:
        """Begins to end the connection; False if that has begun already."""
        if peer in self._ending:
            return False
        crowded = len(self._ending) >= _MOST_DEAF
        task = asyncio.create_task(self._end(peer, 0.0 if crowded else self._deaf_s))
        self._ending[peer] = task
        task.add_done_callback(lambda _: self._ending.pop(peer))
        return True

    async def _end(self, peer: str, deaf_s: float) -> None:
        looking = self._finder.submit(find, peer)
        try:
            connection = await asyncio.wrap_future(looking)
            if connection is not None:
                with contextlib.suppress(OSError):  # the other side may be gone by now
                    deafen(connection)
                    await asyncio.sleep(deaf_s)
        finally:
            # Runs even if this is cancelled while the thread still looks, and the loop is closed.
            looking.add_done_callback(_shut)


def find(peer: str) -> socket.socket | None:
    """A duplicate of our socket to a peer, as gRPC writes it; None if there is none.

    Blocks for some microseconds per open file of this process.
    """
    wanted = parse_peer(peer)
    for connection in _connections() if wanted else ():
        with contextlib.suppress(OSError):  # a listening socket, or one that has just been closed
            if _address(connection) == wanted:
                return connection.dup()
    return None


def deafen(connection: socket.socket) -> None:
    """Has the kernel drop whatever arrives from now on.

    Raises:
        OSError: If it cannot.
    """
    program = struct.pack("@HP", 1, ctypes.addressof(_DROP_ALL))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _shut(looking: Future[socket.socket | None]) -> None:
    connection = None if looking.cancelled() else looking.result()
    if connection is not None:
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


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
