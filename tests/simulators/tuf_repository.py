"""A TUF repository in memory, honest until told otherwise.

It stands where our `ReleaseStore` would, for trust rules that an honest store can never show:
skipped versions, wrong keys, expired roles, thresholds that are not met.
"""

from __future__ import annotations

import io
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from understudy.types.errors import BundleError

BUNDLE = "ab" * 32
TASK = "support"
TARGET = f"bundles/{TASK}/{BUNDLE}/manifest.json"
ROLES = ("root", "timestamp", "snapshot", "targets")


class TufRepository:
    """Signed roles by version; `publish` signs what was changed.

    Attributes:
        root, timestamp, snapshot, targets: The present content of each role; change it freely.
        signers: Who signs a role.
        files: Every metadata file served, by name.
        hashed: Write hashes and lengths of targets and snapshot into the role above.
    """

    def __init__(self) -> None:
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.timestamp = Timestamp(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.targets = Targets(expires=expires)
        self.signers: dict[str, list[Signer]] = {role: [] for role in ROLES}
        self.files: dict[str, bytes] = {}
        self.hashed = True
        for role in ROLES:
            self.add_key(role)
        self.offer(TARGET, BUNDLE, channel="stable", sequence=1)
        self.write_root()
        self.write_all()

    # What is served.

    def metadata(self, name: str) -> bytes:
        if name not in self.files:
            raise BundleError(f"no {name}")
        return self.files[name]

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:  # noqa: ARG002
        return io.BytesIO(b""), 0

    # What may be changed.

    def add_key(self, role: str, *, signs: bool = True) -> Key:
        signer = CryptoSigner.generate_ed25519()
        self.root.add_key(signer.public_key, role)
        if signs:
            self.signers[role].append(signer)
        return signer.public_key

    def drop_keys(self, role: str) -> list[Signer]:
        """Takes a role's keys out of the root; returns who signed before."""
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        before, self.signers[role] = self.signers[role], []
        return before

    def offer(self, path: str, bundle: str, **offer: Any) -> None:
        custom = {"custom": {"understudy": {"offers": [offer]}}}
        self.targets.targets[path] = TargetFile(100, {"sha256": bundle}, path, custom)

    def expire(self, role: str) -> None:
        getattr(self, role).expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)

    # What signs and writes.

    def write_root(self, *extra: Signer) -> None:
        """Signs the root with its own keys, and with whoever else is named."""
        self.write("root", *extra)

    def next_root(self, *extra: Signer) -> None:
        self.root.version += 1
        self.write_root(*extra)

    def write_all(self) -> None:
        """Signs targets, snapshot and timestamp as they are, from the bottom up."""
        data = self.write("targets")
        self.snapshot.meta["targets.json"] = self._meta(self.targets.version, data)
        data = self.write("snapshot")
        self.timestamp.snapshot_meta = self._meta(self.snapshot.version, data)
        self.write("timestamp")

    def publish(self) -> None:
        """One version up, all three."""
        for role in ("targets", "snapshot", "timestamp"):
            getattr(self, role).version += 1
        self.write_all()

    def write(self, role: str, *extra: Signer) -> bytes:
        signed = getattr(self, role)
        metadata: Metadata[Any] = Metadata(deepcopy(signed))
        for signer in (*self.signers[role], *extra):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        name = f"{role}.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self.files[name] = data
        return data

    def _meta(self, version: int, data: bytes) -> MetaFile:
        return MetaFile.from_data(version, data, ["sha256"]) if self.hashed else MetaFile(version)
