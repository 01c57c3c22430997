"""A node that was only enrolled fetches its first student when it opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.artifact_server import Shelf, served
from simulators.bundles import build_bundle
from understudy.cloud.releases import ReleaseRepository
from understudy.edge import EdgeClient
from understudy.edge.config import EdgeConfig, GatewayConfig, UpdaterConfig
from understudy.types.errors import ConfigError
from understudy.types.release import Directive

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test
SURE = "the machine swallowed my card"


def node(folder: Path, address: str) -> EdgeConfig:
    return EdgeConfig(
        state_dir=str(folder / "state"),
        gateway=GatewayConfig(address=address),
        updater=UpdaterConfig(trusted_root=str(folder / "root.json")),
    )


def test_an_enrolled_node_fetches_its_first_student(tmp_path: Path) -> None:
    """`understudy node enroll` leaves a folder without a student; `open` is all that follows."""
    build_bundle(tmp_path / "new")
    repository = ReleaseRepository.create(tmp_path / "server", tmp_path / "keys", PASSPHRASE)
    release = repository.publisher(tmp_path / "keys", PASSPHRASE).publish(
        tmp_path / "new", "stable"
    )
    store = repository.store()
    (tmp_path / "root.json").write_bytes(store.trusted_root())
    directive = Directive(bundle=release.bundle, target=release.target, next_check_in_s=3600.0)
    shelf = Shelf(store, on_check_in=lambda _status: directive)
    with served(shelf) as address, EdgeClient.open(node(tmp_path, address)) as client:
        assert client.predict(SURE).bundle == release.bundle
    # The cloud is away now; the student stays.
    with EdgeClient.open(node(tmp_path, address)) as client:
        assert client.predict(SURE).label == "card"


def test_a_node_that_ends_tells_what_it_answered(tmp_path: Path) -> None:
    """The next check-in would be an hour away, and the process is not."""
    build_bundle(tmp_path / "new")
    repository = ReleaseRepository.create(tmp_path / "server", tmp_path / "keys", PASSPHRASE)
    release = repository.publisher(tmp_path / "keys", PASSPHRASE).publish(
        tmp_path / "new", "stable"
    )
    store = repository.store()
    (tmp_path / "root.json").write_bytes(store.trusted_root())
    directive = Directive(bundle=release.bundle, target=release.target, next_check_in_s=3600.0)
    shelf = Shelf(store, on_check_in=lambda _status: directive)
    with served(shelf) as address:
        for _ in range(2):
            with EdgeClient.open(node(tmp_path, address)) as client:
                client.predict(SURE)
                client.predict(SURE)

    assert sum(status.requests for status in shelf.heard) == 4


def test_a_node_that_is_offered_nothing_says_so(tmp_path: Path) -> None:
    """One sentence, and what to set."""
    repository = ReleaseRepository.create(tmp_path / "server", tmp_path / "keys", PASSPHRASE)
    store = repository.store()
    (tmp_path / "root.json").write_bytes(store.trusted_root())
    shelf = Shelf(store, on_check_in=lambda _status: Directive())
    with served(shelf) as address, pytest.raises(ConfigError, match="no student is installed"):
        EdgeClient.open(node(tmp_path, address))
