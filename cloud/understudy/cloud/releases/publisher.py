"""The publisher's side: signs what may be installed. Its keys never lie on the server.

Order on disk makes a cut harmless: files first, then one rename of the targets metadata that names
them. The server notices the new targets and signs snapshot and timestamp by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from understudy.cloud.releases.disk import Blobs, locked
from understudy.cloud.releases.keys import KeyRing
from understudy.cloud.releases.release import (
    SEQUENCE,
    Offer,
    Release,
    ReleaseKind,
    bundle_target,
    check_name,
    decode_offers,
    delta_target,
    encode_offers,
    file_target,
    releases_of,
)
from understudy.cloud.releases.residual import Delta, make_delta
from understudy.cloud.releases.roles import Lifetimes, RoleFiles
from understudy.cloud.releases.signing import KeyChange, Pen
from understudy.types.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    bundle_id,
    check_file,
    decode_manifest,
)
from understudy.types.errors import BundleError, ConfigError

_METADATA, _BLOBS = "metadata", "blobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """How releases are kept.

    Attributes:
        lifetimes: How long signatures stand.
        kept_offers: Releases of a channel that stay installable; older ones are withdrawn.
        delta_parents: Earlier bundles of a channel from which deltas are made; 0 for none.
        delta_ceiling: A delta is dropped when larger than this share of the full file.
    """

    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    kept_offers: int = 3
    delta_parents: int = 2
    delta_ceiling: float = 0.6


class Publisher:
    """Signs releases with the targets key, and who may sign with the root keys."""

    def __init__(
        self,
        directory: Path,
        keys: KeyRing,
        settings: PublisherSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Remembers where to write; opens no key.

        Args:
            directory: The repository, shared with the server or copied to it.
            keys: Gives the root and targets signers.
            settings: How releases are kept.
            clock: Seconds since 1970.
        """
        self._directory = directory
        self._keys = keys
        self._settings = settings or PublisherSettings()
        self._clock = clock
        self._roles = RoleFiles(directory / _METADATA)
        self._blobs = Blobs(directory / _BLOBS)
        self._pen = Pen(self._roles, keys, self._settings.lifetimes, clock)

    def create(self, online: Mapping[str, Key], *, root_threshold: int = 1) -> None:
        """Makes an empty repository whose root trusts our keys and the server's.

        Args:
            online: The server's public keys of `snapshot` and `timestamp`.
            root_threshold: How many root keys must sign a change of keys.

        Raises:
            ConfigError: If there is a repository already, or too few root keys.
        """
        for name in (_METADATA, _BLOBS):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        if self._roles.versions(Root.type):
            raise ConfigError(f"{self._directory} is a release repository already")
        if len(self._keys.keys(Root.type)) < root_threshold:
            raise ConfigError(f"{root_threshold} root keys must sign, but fewer are listed")
        root = Root(consistent_snapshot=True)
        for role in (Root.type, Targets.type):
            for key in self._keys.keys(role):
                root.add_key(key, role)
        for role in (Snapshot.type, Timestamp.type):
            root.add_key(online[role], role)
        root.roles[Root.type].threshold = root_threshold
        self._pen.write_first_root(root)
        self._pen.write_targets(Targets(unrecognized_fields={SEQUENCE: 0}), root)

    def publish(
        self, bundle_dir: Path | str, channel: str, *, note: str = "", retry: bool = False
    ) -> Release:
        """Offers a bundle to a channel.

        Args:
            bundle_dir: The bundle as written by the night; every file is checked on the way in.
            channel: Name of the channel.
            note: Why, for people.
            retry: True if nodes on which this bundle failed before shall try it again.

        Raises:
            BundleError: If the directory is no whole bundle.
            ConfigError: If a key cannot be opened.
        """
        folder = Path(bundle_dir)
        manifest_bytes = _read(folder, MANIFEST, MAX_MANIFEST_BYTES)
        manifest = decode_manifest(manifest_bytes)
        for name, entry in manifest.files.items():
            self._blobs.put(check_file(name, _read(folder, name, entry.size), entry))
        bundle = bundle_id(manifest_bytes)
        with locked(self._directory):
            targets = self._targets()
            self._blobs.put(manifest_bytes)
            target = self._add_bundle(targets, manifest, manifest_bytes)
            self._add_deltas(targets, manifest, channel)
            return self._offer(
                targets, manifest.task, bundle, target, channel, ReleaseKind.PUBLISH, note, retry
            )

    def promote(self, task: str, bundle: str, channel: str, *, note: str = "") -> Release:
        """Offers a bundle that some channel has already to another channel.

        Raises:
            BundleError: If no channel offers it.
        """
        with locked(self._directory):
            targets = self._targets()
            target = bundle_target(task, bundle)
            if target not in targets.targets:
                raise BundleError(f"no channel offers the bundle {bundle[:12]}; publish it first")
            self._add_deltas(targets, self._manifest(bundle), channel)
            return self._offer(
                targets, task, bundle, target, channel, ReleaseKind.PROMOTE, note, retry=False
            )

    def rollback(self, task: str, channel: str, *, note: str = "") -> Release:
        """Offers the channel's previous bundle again, as a newer release, and withdraws the last.

        It is an order: a node that took that bundle back before tries it again.

        Raises:
            BundleError: If the channel has no earlier bundle.
        """
        with locked(self._directory):
            targets = self._targets()
            mine = [r for r in releases_of(targets) if (r.task, r.channel) == (task, channel)]
            earlier = [r for r in mine if r.bundle != mine[-1].bundle]
            if not earlier:
                raise BundleError(f"the channel '{channel}' has no earlier bundle to go back to")
            last, back = mine[-1], earlier[-1]
            self._withdraw(targets, last.target, channel)
            return self._offer(
                targets, task, back.bundle, back.target, channel, ReleaseKind.ROLLBACK, note,
                retry=True,
            )  # fmt: skip

    def withdraw(self, task: str, bundle: str) -> None:
        """Takes every offer of a bundle back; who has it keeps it until a newer release comes.

        Raises:
            BundleError: If no channel offers it.
        """
        with locked(self._directory):
            targets, target = self._targets(), bundle_target(task, bundle)
            if targets.targets.pop(target, None) is None:
                raise BundleError(f"no channel offers the bundle {bundle[:12]} of '{task}'")
            self._drop_unused(targets)
            self._sign(targets)

    def renew(self, *, root: bool = False, restored: bool = False) -> None:
        """Signs the targets again, unchanged, so that they do not expire.

        Args:
            root: Sign the root again too.
            restored: The folder is an older copy, and shall count on from what was signed since.

        Raises:
            ConfigError: If too few keys can sign, or the folder is an older copy unawares.
        """
        with locked(self._directory):
            if root:
                self._pen.change_root(self._root())
            trusted = self._root()
            self._sign(self._pen.restored_targets(trusted) if restored else self._targets())

    def change_keys(self, *changes: KeyChange) -> int:
        """Replaces the keys of roles; signed by the root keys before and after.

        The ring must still hold the old root keys; forget them afterwards.

        Returns:
            The version of the new root.

        Raises:
            ConfigError: If too few keys can sign; nothing is written then.
        """
        with locked(self._directory):
            self._pen.change_root(self._root(), changes)
            return self._root().version

    def _offer(  # noqa: PLR0913, PLR0917 - the one place where an offer is made
        self,
        targets: Targets,
        task: str,
        bundle: str,
        target: str,
        channel: str,
        kind: ReleaseKind,
        note: str,
        retry: bool,  # noqa: FBT001
    ) -> Release:
        sequence = int(targets.unrecognized_fields.get(SEQUENCE, 0)) + 1
        offer = Offer(
            channel=check_name("channel", channel),
            sequence=sequence,
            kind=kind,
            published_unix_s=int(self._clock()),
            retry=retry,
            note=note,
        )
        file = targets.targets[target]
        others = [o for o in decode_offers(file.custom) if o.channel != channel]
        file.unrecognized_fields["custom"] = encode_offers([*others, offer])
        targets.unrecognized_fields[SEQUENCE] = sequence
        self._retire(targets, task, channel)
        self._sign(targets)
        return Release(task=task, bundle=bundle, target=target, offer=offer)

    def _add_bundle(self, targets: Targets, manifest: Manifest, manifest_bytes: bytes) -> str:
        target = bundle_target(manifest.task, bundle_id(manifest_bytes))
        if target not in targets.targets:
            targets.targets[target] = TargetFile.from_data(target, manifest_bytes, ["sha256"])
        for entry in manifest.files.values():
            path = file_target(entry.sha256)
            targets.targets[path] = TargetFile(entry.size, {"sha256": entry.sha256}, path)
        return target

    def _add_deltas(self, targets: Targets, manifest: Manifest, channel: str) -> None:
        """Lists a delta from each recent bundle of the channel, file by file."""
        recent = [
            r for r in releases_of(targets) if (r.task, r.channel) == (manifest.task, channel)
        ]
        parents = {r.bundle: None for r in reversed(recent)}
        for parent in list(parents)[: self._settings.delta_parents]:
            old = self._manifest(parent)
            for name, entry in manifest.files.items():
                base = old.files.get(name)
                if base is None or base.sha256 == entry.sha256:
                    continue
                self._add_delta(targets, name, base.sha256, entry.sha256)

    def _add_delta(self, targets: Targets, name: str, base: str, full: str) -> None:
        path = delta_target(base, full)
        if path in targets.targets:
            return
        delta: Delta = make_delta(name, self._blobs.get(base), self._blobs.get(full))
        if len(delta.data) > self._settings.delta_ceiling * delta.full_size:
            return
        self._blobs.put(delta.data)
        targets.targets[path] = TargetFile.from_data(path, delta.data, ["sha256"])

    def _retire(self, targets: Targets, task: str, channel: str) -> None:
        """Withdraws a channel's oldest offers, and whatever nothing refers to any more."""
        mine = [r for r in releases_of(targets) if (r.task, r.channel) == (task, channel)]
        for old in mine[: -self._settings.kept_offers]:
            self._withdraw(targets, old.target, channel)
        self._drop_unused(targets)

    def _drop_unused(self, targets: Targets) -> None:
        bundles = {r.bundle for r in releases_of(targets)}
        files = {e.sha256 for b in bundles for e in self._manifest(b).files.values()}
        for path in list(targets.targets):
            kind, _, rest = path.partition("/")
            unused = (kind == "files" and rest not in files) or (
                kind == "deltas" and rest.partition("-")[2] not in files
            )
            if unused:
                del targets.targets[path]

    def _withdraw(self, targets: Targets, target: str, channel: str) -> None:
        file = targets.targets[target]
        rest = [o for o in decode_offers(file.custom) if o.channel != channel]
        if rest:
            file.unrecognized_fields["custom"] = encode_offers(rest)
        else:
            del targets.targets[target]

    def _manifest(self, bundle: str) -> Manifest:
        return decode_manifest(self._blobs.get(bundle))

    def _root(self) -> Root:
        return self._roles.root().signed

    def _targets(self) -> Targets:
        return self._pen.newest_targets(self._root())

    def _sign(self, targets: Targets) -> None:
        self._pen.write_targets(targets, self._root())


def _read(folder: Path, name: str, limit: int) -> bytes:
    try:
        with (folder / name).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise BundleError(f"{folder / name} is larger than the {limit} bytes it may have")
    return data
