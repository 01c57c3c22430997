"""The signed files of a repository on disk: `<version>.<role>.json`, and `timestamp.json`.

Reading verifies: whoever asks this module for the newest targets gets only what the root trusts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from understudy.files import write_atomic
from understudy.types.errors import BundleError, ConfigError, SignatureError

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
_SERVED = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(root|targets|snapshot)\.json")
_COMPACT = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long each role's signature stands, days.

    Attributes:
        root: Who may sign; renewed by people.
        targets: What may be installed; renewed with every release.
        snapshot: Which targets are current; renewed by the server.
        timestamp: That the server is alive; bounds how long a stolen server can hide a release.
    """

    root: float = 365.0
    targets: float = 90.0
    snapshot: float = 14.0
    timestamp: float = 7.0


def expiry(now: float, days: float) -> datetime:
    """The date `days` after the Unix time `now`; whole seconds, as the format wants."""
    return (datetime.fromtimestamp(now, UTC) + timedelta(days=days)).replace(microsecond=0)


class RoleFiles:
    """The folder of signed files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes:
        """The bytes of a file that may be served.

        Raises:
            BundleError: If there is no such file.
        """
        if not _SERVED.fullmatch(name):
            raise BundleError(f"'{name[:80]}' is no name of release metadata")
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError as error:
            raise BundleError(f"the repository has no {name}") from error

    def versions(self, role: str) -> list[int]:
        """The versions of a role on disk, rising."""
        suffix = f".{role}.json"
        names = (p.name for p in self.directory.glob(f"*{suffix}"))
        return sorted(int(n.removesuffix(suffix)) for n in names if _SERVED.fullmatch(n))

    def write(self, role: str, metadata: Metadata[S]) -> None:
        """Stores a signed role under its version."""
        name = f"{role}.json"
        if role != Timestamp.type:
            name = f"{metadata.signed.version}.{name}"
        write_atomic(self.directory / name, metadata.to_bytes(_COMPACT), mode=0o644)

    def root(self) -> Metadata[Root]:
        """The newest root that a chain of signatures joins to the first one.

        Raises:
            ConfigError: If the folder holds no root.
            SignatureError: If the first root does not sign itself.
        """
        versions = self.versions(Root.type)
        if not versions:
            raise ConfigError(f"{self.directory} holds no root; create the repository first")
        trusted = self._load(Root, versions[0])
        _verified(trusted.signed, Root.type, trusted)
        for version in range(versions[0] + 1, versions[-1] + 1):
            try:
                newer = self._load(Root, version)
                _verified(trusted.signed, Root.type, newer)
                _verified(newer.signed, Root.type, newer)
            except BundleError:
                break
            trusted = newer
        return trusted

    def targets(self, root: Root) -> Metadata[Targets]:
        """The newest targets that the root trusts.

        Raises:
            BundleError: If there are none.
        """
        return self._newest(Targets, Targets.type, root)

    def snapshot(self, root: Root) -> Metadata[Snapshot] | None:
        """The newest snapshot that the root trusts; None before the first."""
        return self._optional(Snapshot, Snapshot.type, root)

    def timestamp(self, root: Root) -> Metadata[Timestamp] | None:
        """The timestamp, if there is one that the root trusts."""
        try:
            found = self._read(Timestamp, "timestamp.json")
            _verified(root, Timestamp.type, found)
        except BundleError:
            return None
        return found

    def _optional(self, cls: type[S], role: str, root: Root) -> Metadata[S] | None:
        try:
            return self._newest(cls, role, root)
        except BundleError:
            return None

    def _newest(self, cls: type[S], role: str, root: Root) -> Metadata[S]:
        for version in reversed(self.versions(role)):
            try:
                found = self._load(cls, version)
                _verified(root, role, found)
            except BundleError:
                continue
            return found
        raise BundleError(f"{self.directory} holds no {role} signed by a key the root trusts")

    def _load(self, cls: type[S], version: int) -> Metadata[S]:
        """A role's file of that name, if it holds that version: an older one may be signed too."""
        name = f"{version}.{cls.type}.json"
        loaded = self._read(cls, name)
        if loaded.signed.version != version:
            raise BundleError(f"{name} holds version {loaded.signed.version}")
        return loaded

    def _read(self, cls: type[S], name: str) -> Metadata[S]:
        try:
            loaded: Metadata[S] = Metadata.from_bytes(self.read(name))
        except DeserializationError as error:
            raise BundleError(f"{name} is no signed metadata") from error
        if not isinstance(loaded.signed, cls):
            raise BundleError(f"{name} holds {loaded.signed.type} metadata")
        return loaded


def sign(metadata: Metadata[S], signers: Iterable[Signer]) -> Metadata[S]:
    """Replaces the signatures by one of each signer."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def _verified(root: Root, role: str, metadata: Metadata[S]) -> None:
    try:
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise SignatureError(f"{role} version {metadata.signed.version}: {error}") from error
