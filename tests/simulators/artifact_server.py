"""A real gRPC server on localhost that ships releases, honestly or not.

`Shelf` is what it serves from; tests bend it by replacing bytes, cutting streams or going away.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import grpc

from understudy.cloud.releases import ReleaseRepository
from understudy.types.convert import directive_to_wire, status_from_wire
from understudy.types.errors import BundleError
from understudy.types.release import Directive, NodeStatus
from understudy.wire.v1 import artifact_pb2, artifact_pb2_grpc, fleet_pb2, fleet_pb2_grpc

CHUNK = 4096


class Source(Protocol):
    """Whatever has metadata and files; `ReleaseStore` does."""

    def metadata(self, name: str) -> bytes: ...
    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]: ...


@dataclass
class Shelf:
    """What is served, and how badly.

    Attributes:
        source: Honest bytes.
        metadata_instead: Bytes by metadata name served in place of the honest ones; None for
            not found.
        blobs_instead: Bytes by digest served in place of the honest ones.
        cut_after: Each stream is cut with UNAVAILABLE after so many bytes; None for never.
        down: Everything is UNAVAILABLE.
        on_check_in: Answers check-ins.
        asked: Every metadata name and digest asked for, in order.
        sent: Bytes of files sent.
        heard: Every status that a node reported.
    """

    source: Source
    metadata_instead: dict[str, bytes | None] = field(default_factory=dict)
    blobs_instead: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    down: bool = False
    on_check_in: Callable[[NodeStatus], Directive] = lambda _status: Directive()
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    heard: list[NodeStatus] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def metadata(self, name: str) -> bytes:
        self.asked.append(name)
        if name in self.metadata_instead:
            data = self.metadata_instead[name]
            if data is None:
                raise BundleError(f"no {name}")
            return data
        return self.source.metadata(name)

    def open_blob(self, sha256: str) -> BinaryIO:
        self.asked.append(sha256)
        if sha256 in self.blobs_instead:
            return io.BytesIO(self.blobs_instead[sha256])
        return self.source.open_blob(sha256)[0]


class _Artifacts(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def GetMetadata(self, request: Any, context: Any) -> artifact_pb2.GetMetadataResponse:  # noqa: N802
        _refuse_when_down(self._shelf, context)
        try:
            return artifact_pb2.GetMetadataResponse(data=self._shelf.metadata(request.name))
        except BundleError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            raise AssertionError from error

    def ReadBlob(self, request: Any, context: Any) -> Iterator[artifact_pb2.ReadBlobResponse]:  # noqa: N802
        _refuse_when_down(self._shelf, context)
        try:
            file = self._shelf.open_blob(request.sha256)
        except BundleError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            raise AssertionError from error
        with file:
            yield from self._pieces(file, request.offset, context)

    def _pieces(
        self, file: BinaryIO, offset: int, context: Any
    ) -> Iterator[artifact_pb2.ReadBlobResponse]:
        file.seek(offset)
        left = self._shelf.cut_after if self._shelf.cut_after is not None else float("inf")
        while data := file.read(CHUNK):
            piece = data[: int(min(left, len(data)))]
            left -= len(piece)
            with self._shelf.lock:
                self._shelf.sent += len(piece)
            yield artifact_pb2.ReadBlobResponse(offset=offset, data=piece)
            offset += len(piece)
            if left == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")


class _Fleet(fleet_pb2_grpc.FleetServiceServicer):
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def CheckIn(self, request: Any, context: Any) -> fleet_pb2.CheckInResponse:  # noqa: N802
        _refuse_when_down(self._shelf, context)
        status = status_from_wire(request.status)
        self._shelf.heard.append(status)
        directive = self._shelf.on_check_in(status)
        return fleet_pb2.CheckInResponse(directive=directive_to_wire(directive))


def _refuse_when_down(shelf: Shelf, context: Any) -> None:
    if shelf.down:
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")


@contextmanager
def served(shelf: Shelf) -> Iterator[str]:
    """Runs the server; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(_Artifacts(shelf), server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(_Fleet(shelf), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def main() -> None:
    """Serves a repository to a bench in another process: prints the address, ends with stdin."""
    folder, task = sys.argv[1], sys.argv[2]
    store = ReleaseRepository.open(folder).store()

    def newest(_status: NodeStatus) -> Directive:
        release = store.current(task, "stable")
        if release is None:
            return Directive(next_check_in_s=3600.0)
        return Directive(bundle=release.bundle, target=release.target, next_check_in_s=3600.0)

    with served(Shelf(store, on_check_in=newest)) as address:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
