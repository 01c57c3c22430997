"""Peers that are no cloud at all, on real sockets: silent, absent, babbling, breaking off."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends RST in place of FIN."""


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A port that was just free: the kernel refuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def unknown_name() -> Iterator[str]:
    """A name that resolves nowhere; `.invalid` is reserved for that."""
    yield "gateway.invalid:8443"


def babbler() -> contextlib.AbstractContextManager[str]:
    """Speaks something that is no HTTP/2."""

    def speak(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.sendall(b"\x00\xffHTTP/1.1 200 OK\r\n\r\ngarbage" * 50)

    return serving(speak)


def resetter() -> contextlib.AbstractContextManager[str]:
    """Begins a proper HTTP/2 frame, then resets in the middle of it."""

    def speak(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.recv(1024)
            peer.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    return serving(speak)


@contextlib.contextmanager
def serving(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """Lets `speak` have every connection, one after the other."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                speak(peer)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
