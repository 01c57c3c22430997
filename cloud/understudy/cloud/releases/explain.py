"""`understudy release verify` in words: why a bundle may be believed, sentence by sentence.

Every sentence is checked while it is written; the first link that does not hold ends the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from understudy.cloud.releases.disk import Blobs
from understudy.cloud.releases.release import (
    Release,
    file_target,
    parse_bundle_target,
    releases_of,
)
from understudy.cloud.releases.roles import RoleFiles
from understudy.types.bundle import Manifest, check_file, decode_manifest
from understudy.types.errors import BundleError


@dataclass(frozen=True, slots=True)
class Finding:
    """One link of the chain: what was looked at, and whether it holds."""

    sentence: str
    holds: bool = True


class _BrokenError(Exception):
    """A link that does not hold; its message is the last sentence."""


def explain(directory: Path | str, bundle: str, now: float) -> list[Finding]:
    """Checks a bundle's chain from the root to its last byte.

    Args:
        directory: The release repository.
        bundle: Id of the bundle, or its first letters.
        now: Seconds since 1970; what is past its date does not hold.

    Returns:
        One finding a link; the last one does not hold if the bundle may not be believed.
    """
    findings: list[Finding] = []
    try:
        # Kept as they are made, so that a broken chain shows how far it held.
        for sentence in _chain(Path(directory), bundle, now):
            findings.append(Finding(sentence))  # noqa: PERF401 - an error keeps what came before
    except (_BrokenError, BundleError, RepositoryError) as error:
        findings.append(Finding(f"Here it breaks: {str(error).rstrip('.')}.", holds=False))
    return findings


def _chain(directory: Path, bundle: str, now: float) -> Iterator[str]:
    roles, blobs = RoleFiles(directory / "metadata"), Blobs(directory / "blobs")
    yield from _roots(roles, now)
    root = roles.root().signed
    targets = roles.targets(root)
    yield _role("targets", targets, root, now, "what may be installed")
    found = _find(targets.signed, bundle)
    yield _naming(found, targets.signed.targets[found[0].target])
    yield from _online(roles, root, targets, now)
    yield from _files(blobs, targets.signed, found[0].bundle)
    yield (
        f"So the bundle {found[0].bundle[:12]} is what the publisher signed, and a node that pins "
        "this root may run it."
    )


def _roots(roles: RoleFiles, now: float) -> Iterator[str]:
    versions = roles.versions(Root.type)
    trusted = roles.root()
    signed = trusted.signed
    role = signed.roles[Root.type]
    yield _way(versions[0], signed.version)
    if signed.version != versions[-1]:
        raise _BrokenError(
            f"root version {versions[-1]} is on the disk, but not signed by those before it"
        )
    _check_date("root", trusted, now)
    yield (
        f"Root version {signed.version} holds until {_date(signed.expires)}; {role.threshold} of "
        f"{len(role.keyids)} root keys must sign the next."
    )


def _role(
    name: str,
    metadata: Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp],
    root: Root,
    now: float,
    purpose: str,
) -> str:
    _check_date(name, metadata, now)
    keys = [keyid[:8] for keyid in metadata.signatures if keyid in root.roles[name].keyids]
    return (
        f"The {name} metadata, version {metadata.signed.version}, says {purpose}; it is signed by "
        f"{' and '.join(keys)}, as the root asks, and holds until {_date(metadata.signed.expires)}."
    )


def _naming(found: list[Release], target: TargetFile) -> str:
    offers = ", ".join(
        f"release {r.sequence} of channel '{r.channel}' ({r.offer.kind.value}"
        f"{', ' + r.offer.note if r.offer.note else ''})"
        for r in found
    )
    return (
        f"It names the bundle {found[0].bundle[:12]} of task '{found[0].task}' as {offers}; its "
        f"manifest has {target.length} bytes."
    )


def _online(roles: RoleFiles, root: Root, targets: Metadata[Targets], now: float) -> Iterator[str]:
    snapshot, timestamp = roles.snapshot(root), roles.timestamp(root)
    if snapshot is None or timestamp is None:
        raise _BrokenError(
            "the server has not signed a snapshot and timestamp that the root trusts"
        )
    yield _role("snapshot", snapshot, root, now, "which targets are current")
    listed = snapshot.signed.meta["targets.json"].version
    if listed != targets.signed.version:
        raise _BrokenError(
            f"the snapshot lists targets version {listed}, not {targets.signed.version}; "
            "the server has yet to sign the newest, as it does when a node asks: start the gateway"
        )
    yield _role("timestamp", timestamp, root, now, "which snapshot is current")
    data = roles.read(f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
    timestamp.signed.snapshot_meta.verify_length_and_hashes(data)


def _files(blobs: Blobs, targets: Targets, bundle: str) -> Iterator[str]:
    data = blobs.get(bundle)
    if hashlib.sha256(data).hexdigest() != bundle:
        raise _BrokenError("the manifest on the disk does not have the bundle's digest")
    manifest = decode_manifest(data)
    yield f"The manifest on the disk has the digest {bundle[:12]}, which is the bundle's name."
    for name, entry in manifest.files.items():
        check_file(name, blobs.get(entry.sha256), entry)
        if file_target(entry.sha256) not in targets.targets:
            raise _BrokenError(f"{name} is in the manifest, but its digest was not signed")
    size = sum(entry.size for entry in manifest.files.values())
    yield (
        f"Each of its {len(manifest.files)} files ({size:,} bytes) has the digest that the "
        f"manifest names: {', '.join(sorted(manifest.files))}."
    )
    yield f"By its manifest {_origin(manifest)}."


def _way(first: int, last: int) -> str:
    """From the root that nodes pin to the newest one."""
    if first == last:
        return f"Trust begins at root version {first}, the only one so far."
    changes = "one change" if last == first + 1 else f"a chain of {last - first} changes"
    return (
        f"Trust begins at root version {first}; {changes} of root metadata, each signed by enough "
        f"keys before and after it, leads to version {last}."
    )


def _origin(manifest: Manifest) -> str:
    """What a bundle says of where it comes from, as far as it says anything."""
    lineage = manifest.lineage
    data = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(lineage.data.items()))
    software = ", ".join(f"{name} {number}" for name, number in sorted(lineage.software.items()))
    said = {
        "was made by recipe": lineage.recipe,
        "in the night": lineage.night,
        "learned from the teacher": lineage.teacher,
        "on the data": data,
        "with": software,
    }
    parent = f"it grew from {manifest.parent[:12]}" if manifest.parent else "it has no parent"
    return ", ".join([parent, *(f"{words} {what}" for words, what in said.items() if what)])


def _find(targets: Targets, bundle: str) -> list[Release]:
    every = releases_of(targets)
    ids = {r.bundle for r in every if r.bundle.startswith(bundle)} if bundle else set()
    if len(ids) > 1:
        raise _BrokenError(f"'{bundle}' begins the names of {len(ids)} bundles; give more letters")
    if not ids:
        listed = sum(parse_bundle_target(path) is not None for path in targets.targets)
        raise _BrokenError(
            f"no signature names a bundle '{bundle[:64]}'; {listed} other bundles are offered"
        )
    return [r for r in every if r.bundle in ids]


def _check_date(
    name: str,
    metadata: Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp],
    now: float,
) -> None:
    if metadata.signed.is_expired(datetime.fromtimestamp(now, UTC)):
        raise _BrokenError(f"the {name} held until {_date(metadata.signed.expires)} only")


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
