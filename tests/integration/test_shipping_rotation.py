"""Keys change while nodes are out there: they follow by themselves, and old keys sign nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root

from simulators.artifact_server import Shelf, served
from simulators.bundles import build_bundle
from simulators.updating_node import Clock, Node
from understudy.cloud.releases import KeyHolder, Release, ReleaseRepository, Rotation
from understudy.cloud.releases.keys import FolderKeyRing
from understudy.cloud.releases.roles import RoleFiles, sign
from understudy.types.errors import ConfigError
from understudy.types.release import Directive

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles; their names are their ids."""
    folder = tmp_path_factory.mktemp("students")
    for seed in range(3):
        made = build_bundle(folder / "new", seed=seed)
        (folder / "new").rename(folder / made)
    return sorted(folder.iterdir())


@dataclass
class Works:
    """A repository by three root keys of which two must sign, its server, and one node."""

    repository: ReleaseRepository
    keys: Path
    shelf: Shelf
    node: Node

    @property
    def metadata(self) -> Path:
        return self.repository.directory / "metadata"

    def publish(self, student: Path) -> Release:
        """Offers a student, and tells the node."""
        release = self.repository.publisher(self.keys, PASSPHRASE).publish(student, "stable")
        order = Directive(bundle=release.bundle, target=release.target)
        self.shelf.on_check_in = lambda _status: order
        return release

    def rotate(self, holder: KeyHolder, made: int = 1, threshold: int = 1) -> list[Signer]:
        """Replaces keys; gives what a thief of the old ones signs with."""
        folder = self.repository.directory / "online"
        ring = FolderKeyRing(folder, None)
        if holder is not KeyHolder.ONLINE:
            ring = FolderKeyRing(self.keys, PASSPHRASE)
        roles = {"online": ("snapshot", "timestamp")}.get(holder, (holder.value,))
        stolen = [signer for role in roles for signer in ring.signers(role)]
        self.repository.rotate(
            Rotation(holder=holder, made=made, threshold=threshold), self.keys, PASSPHRASE
        )
        return stolen

    def update(self) -> str:
        """The node checks in and does all it can; gives what answers then."""
        self.node.clock.now += 1000
        self.node.update()
        return self.node.client.loaded


@pytest.fixture
def works(tmp_path: Path, students: list[Path]) -> Iterator[Works]:
    repository = ReleaseRepository.create(
        tmp_path / "server", tmp_path / "keys", PASSPHRASE, root_keys=3, root_threshold=2
    )
    shelf = Shelf(repository.store())
    with served(shelf) as address:
        root = repository.store().trusted_root()
        node = Node(tmp_path / "node", root, address, clock=Clock(time.time()))
        made = Works(repository, tmp_path / "keys", shelf, node)
        made.publish(students[0])
        assert students[0].name == made.update()
        yield made
        node.close()


@pytest.mark.parametrize("holder", list(KeyHolder))
def test_a_node_that_pinned_the_old_root_follows(
    works: Works, students: list[Path], holder: KeyHolder
) -> None:
    works.rotate(holder, made=2, threshold=2 if holder is KeyHolder.ROOT else 1)
    works.publish(students[1])

    assert students[1].name == works.update()


def test_a_node_that_was_off_walks_through_every_change(works: Works, students: list[Path]) -> None:
    for holder in (KeyHolder.TARGETS, KeyHolder.ROOT, KeyHolder.ONLINE, KeyHolder.TARGETS):
        works.rotate(holder)
    works.publish(students[1])

    assert students[1].name == works.update()


def test_a_stolen_targets_key_no_longer_counts(works: Works, students: list[Path]) -> None:
    """The thief has the old targets key and the whole server, online keys included."""
    stolen = works.rotate(KeyHolder.TARGETS)
    works.update()
    release = _forge_targets(works, students[2], stolen)
    works.shelf.on_check_in = lambda _s: Directive(bundle=release, target=_target(release))

    assert students[0].name == works.update()
    assert "was signed by 0/1 keys" in works.node.updater.record.failure


def test_before_the_rotation_it_did_count(works: Works, students: list[Path]) -> None:
    """Without this the test above would prove nothing."""
    stolen = FolderKeyRing(works.keys, PASSPHRASE).signers("targets")
    release = _forge_targets(works, students[2], stolen)
    works.shelf.on_check_in = lambda _s: Directive(bundle=release, target=_target(release))

    assert students[2].name == works.update()


def test_stolen_root_keys_that_were_replaced_make_no_next_root(
    works: Works, students: list[Path]
) -> None:
    stolen = works.rotate(KeyHolder.ROOT, made=3, threshold=2)
    works.update()
    _forge_root(works, stolen)
    works.publish(students[1])

    assert students[0].name == works.update()
    assert "root was signed by 0/2 keys" in works.node.updater.record.failure


def test_one_stolen_root_key_of_three_changes_nothing(works: Works, students: list[Path]) -> None:
    stolen = FolderKeyRing(works.keys, PASSPHRASE).signers("root")[:1]
    _forge_root(works, stolen)
    works.publish(students[1])

    assert students[0].name == works.update()
    assert "root was signed by 1/2 keys" in works.node.updater.record.failure


def test_two_of_three_could_which_is_why_they_lie_apart(works: Works, students: list[Path]) -> None:
    """The other side of the threshold: without it the test above would prove nothing."""
    stolen = FolderKeyRing(works.keys, PASSPHRASE).signers("root")[:2]
    _forge_root(works, stolen)
    works.publish(students[1])

    assert students[1].name == works.update()


def test_stolen_online_keys_that_were_replaced_freeze_nobody(
    works: Works, students: list[Path]
) -> None:
    """With the old keys a thief drove the timestamp far ahead; the new ones count again."""
    roles = RoleFiles(works.metadata)
    far = roles.timestamp(roles.root().signed)
    assert far is not None
    far.signed.version = 10_000
    online = FolderKeyRing(works.repository.directory / "online", None)
    roles.write("timestamp", sign(far, online.signers("timestamp")))
    works.update()
    works.rotate(KeyHolder.ONLINE)
    (works.metadata / "timestamp.json").unlink()
    works.publish(students[1])

    assert students[1].name == works.update()


def test_after_an_older_copy_was_restored_nodes_come_along_again(
    works: Works, students: list[Path], tmp_path: Path
) -> None:
    """They have seen more than the copy holds; new online keys and higher counts win them back."""
    shutil.copytree(works.repository.directory, tmp_path / "copy")
    works.publish(students[1])
    assert students[1].name == works.update()
    shutil.rmtree(works.repository.directory)
    shutil.copytree(tmp_path / "copy", works.repository.directory)
    with pytest.raises(ConfigError, match="renew --restored"):
        works.publish(students[2])
    publisher = works.repository.publisher(works.keys, PASSPHRASE)
    publisher.renew(restored=True)
    works.rotate(KeyHolder.ONLINE)
    works.publish(students[2])

    assert students[2].name == works.update()


def _forge_targets(works: Works, student: Path, stolen: list[Signer]) -> str:
    """Targets that offer a student nobody published; snapshot and timestamp follow by themselves.

    The newest root is put aside for the server's benefit, which would not sign for the thief.
    """
    aside = works.repository.directory.parent / "thief"
    shutil.copytree(works.repository.directory, aside)
    ring = FolderKeyRing(aside.parent / "thief-keys", "a thief's")
    theirs = ReleaseRepository.open(aside)
    roles = RoleFiles(aside / "metadata")
    root = roles.root().signed
    targets = roles.targets(root).signed
    scratch = ReleaseRepository.create(aside.parent / "scratch", ring.folder, "a thief's")
    scratch.publisher(ring.folder, "a thief's").publish(student, "stable")
    fake = RoleFiles(scratch.directory / "metadata")
    mine = fake.targets(fake.root().signed).signed
    path = _target(student.name)
    for name in (path, *(p for p in mine.targets if p.startswith("files/"))):
        targets.targets[name] = mine.targets[name]
    offers = targets.targets[path].unrecognized_fields["custom"]["understudy"]["offers"]
    offers[0]["sequence"] = 99
    targets.version += 1
    roles.write("targets", sign(Metadata(targets), stolen))
    _sign_online(roles, root, FolderKeyRing(aside / "online", None), targets.version)
    shutil.copytree(scratch.directory / "blobs", aside / "blobs", dirs_exist_ok=True)
    works.shelf.source = _Raw(theirs)
    return student.name


class _Raw:
    """A thief's server: hands out what lies on its disk, and signs nothing anew."""

    def __init__(self, repository: ReleaseRepository) -> None:
        self._roles = RoleFiles(repository.directory / "metadata")
        self._store = repository.store()

    def metadata(self, name: str) -> bytes:
        return self._roles.read(name)

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        return self._store.open_blob(sha256)


def _sign_online(roles: RoleFiles, root: Root, online: FolderKeyRing, version: int) -> None:
    snapshot, timestamp = roles.snapshot(root), roles.timestamp(root)
    assert snapshot is not None
    assert timestamp is not None
    snapshot.signed.version += 1
    snapshot.signed.meta["targets.json"] = MetaFile(version)
    roles.write("snapshot", sign(snapshot, online.signers("snapshot")))
    data = roles.read(f"{snapshot.signed.version}.snapshot.json")
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, data, ["sha256"])
    roles.write("timestamp", sign(timestamp, online.signers("timestamp")))


def _forge_root(works: Works, stolen: list[Signer]) -> None:
    """A next root by stolen keys, which would rather have itself trusted."""
    roles = RoleFiles(works.metadata)
    root = roles.root().signed
    root.version += 1
    works.shelf.metadata_instead[f"{root.version}.root.json"] = sign(
        Metadata(root), stolen
    ).to_bytes()


def _target(bundle: str) -> str:
    from simulators.bundles import TASK

    return f"bundles/{TASK}/{bundle}/manifest.json"
