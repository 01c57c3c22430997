"""A Redis of tomorrow in front of the one that is installed: WAITAOF, and the version that has it.

Everything else goes to the real server and comes back from it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from io import BufferedIOBase
from typing import cast


class RedisProxy(socketserver.ThreadingTCPServer):
    """Answers WAITAOF itself.

    Attributes:
        synced: True while the disk keeps up.
        waited: How often a writer has waited for the disk.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.real = ("127.0.0.1", port)
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"
        self.synced = True
        self.waited = 0

    def wait_reply(self) -> bytes:
        """How many of this server's own disks, and of its replicas', have it."""
        self.waited += 1
        return f"*2\r\n:{int(self.synced)}\r\n:0\r\n".encode()


class _Talk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        proxy = cast("RedisProxy", self.server)
        with socket.create_connection(proxy.real) as real, real.makefile("rb") as replies:
            while asked := b"".join(read_value(self.rfile)):
                if b"WAITAOF" in asked:
                    self.wfile.write(proxy.wait_reply())
                    continue
                real.sendall(asked)
                reply = b"".join(read_value(replies))
                self.wfile.write(with_version(reply, b"7.4"))


def with_version(reply: bytes, version: bytes) -> bytes:
    """The reply to INFO with another version, as long as before."""

    def replace(found: re.Match[bytes]) -> bytes:
        rest = found[0].partition(b":")[2]
        return b"redis_version:" + version.ljust(len(rest), b"0")

    return re.sub(rb"redis_version:[0-9.]+", replace, reply)


def read_value(stream: BufferedIOBase) -> Iterator[bytes]:
    """The bytes of one value of the protocol, request or reply; nothing at the end."""
    line = stream.readline()
    yield line
    kind, count = line[:1], line[1:].strip()
    if kind == b"$" and int(count) >= 0:
        yield stream.read(int(count) + 2)
    elif kind == b"*":
        for _ in range(int(count)):
            yield from read_value(stream)


@contextlib.contextmanager
def proxied(port: int) -> Iterator[RedisProxy]:
    """In front of the real server at a port, until the block ends."""
    with RedisProxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
