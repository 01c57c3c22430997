"""A node that pinned the first root of a repository that a test bends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata

from simulators.artifact_server import Shelf, served
from simulators.tuf_repository import TufRepository
from understudy.edge.transport import CloudLink
from understudy.edge.trust import Trust


@dataclass
class World:
    """A repository, the server in front of it, and a node that pinned its first root."""

    repository: TufRepository
    shelf: Shelf
    link: CloudLink
    home: Path
    root: bytes

    def refresh(self) -> Trust:
        """A fresh process of the same node."""
        trust = Trust(self.home, self.root, self.link, timeout_s=10.0)
        trust.refresh()
        return trust

    def believed(self, role: str) -> int:
        """The version of a role that the node holds; 0 for none."""
        path = self.home / f"{role}.json"
        return Metadata.from_file(str(path)).signed.version if path.is_file() else 0


@contextmanager
def trusting(home: Path) -> Iterator[World]:
    """A world over a real gRPC server."""
    repository = TufRepository()
    shelf = Shelf(repository)
    with served(shelf) as address:
        link = CloudLink(address)
        yield World(repository, shelf, link, home, repository.files["1.root.json"])
        link.close()
