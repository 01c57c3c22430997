"""What the edge believes: metadata signed by the publisher, fetched over the link.

Every rule of trust is python-tuf's. This module gives it a fetcher over gRPC, maps its errors, and
adds two things that it leaves out: versions and clock never go back, not even when a power cut
loses its unsynced files; and the meaning of a release, of which a node only takes newer ones.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from understudy.files import write_atomic
from understudy.types.errors import (
    BundleError,
    DigestError,
    ExpiredError,
    LinkError,
    RollbackError,
    SignatureError,
    UnderstudyError,
)

_ROLES = ("root", "timestamp", "snapshot", "targets")
_BASE = "tuf:///"
_TARGET = re.compile(r"bundles/([^/]+)/([0-9a-f]{64})/manifest\.json")
_FLOOR = "floor.json"


class ArtifactSource(Protocol):
    """Where metadata and files come from; every call has a deadline."""

    def metadata(self, name: str, timeout_s: float) -> bytes:
        """The bytes of one TUF metadata file.

        Raises:
            BundleError: If the server has no such file.
            LinkError: If the server cannot be asked.
        """
        ...

    def blob(self, sha256: str, offset: int, timeout_s: float) -> Iterator[bytes]:
        """The bytes of a file from an offset on, in pieces.

        Raises:
            BundleError: If the server has no such file, or it is shorter than `offset`.
            LinkError: If the server cannot be asked, at any piece.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrustedFile:
    """A file that the publisher signed: sha256 in hex, and length in bytes."""

    sha256: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOffer:
    """A bundle that the publisher offers to this node's channel.

    Attributes:
        task: Name of the task.
        bundle: Id of the bundle.
        target: TUF target path of its manifest.
        sequence: Place in the order of all releases; a node only goes forward.
        retry: True if nodes on which it failed shall try it again.
        manifest: Digest and length of the manifest.
    """

    task: str
    bundle: str
    target: str
    sequence: int
    retry: bool
    manifest: TrustedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What was trusted before; nothing below it is believed again.

    Attributes:
        versions: Version by name of role.
        keys: Ids of the keys that guard a role's version, joined; with other keys its count may
            start again, which is how a publisher recovers after a thief has driven it far ahead.
        clock_unix_s: Latest time at which metadata was seen to be fresh.
    """

    versions: Mapping[str, int]
    keys: Mapping[str, str] = field(default_factory=dict)
    clock_unix_s: float = 0.0


class Trust:
    """The trusted metadata of one node; for one thread."""

    def __init__(
        self,
        directory: Path,
        root: bytes,
        source: ArtifactSource,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 30.0,
    ) -> None:
        """Remembers where to look; asks nobody yet.

        Args:
            directory: Cache of the metadata, made when missing.
            root: The root metadata where trust begins; from the node's configuration or enrolment.
            source: Where metadata comes from.
            clock: Seconds since 1970.
            timeout_s: Deadline of each call.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._root = root
        self._fetcher = _LinkFetcher(source, timeout_s)
        self._clock = clock
        self._updater: Updater | None = None

    def refresh(self) -> None:
        """Brings the metadata up to date.

        Raises:
            SignatureError: If something is not signed by who may sign it.
            RollbackError: If something is older than what was trusted.
            ExpiredError: If something is past its date.
            BundleError: If the metadata is wrong in another way.
            LinkError: If the server cannot be asked.
            OSError: If the disk refuses.
        """
        self._updater = None
        with _mapped_errors():
            updater = Updater(
                str(self._directory),
                _BASE,
                fetcher=self._fetcher,
                config=UpdaterConfig(prefix_targets_with_hash=False),
                bootstrap=self._root,
            )
            updater.refresh()
        self._raise_floor()
        self._updater = updater

    @property
    def fresh(self) -> bool:
        """True once `refresh` has succeeded in this process."""
        return self._updater is not None

    def offer(self, target: str, channel: str) -> SignedOffer:
        """The release behind a target path that somebody unsigned hinted at.

        Raises:
            SignatureError: If the publisher does not offer it to this channel.
            BundleError: If the metadata is wrong.
        """
        named = _TARGET.fullmatch(target)
        file = self._target(target) if named else None
        if named is None or file is None:
            raise SignatureError(f"the publisher signed no release '{target[:120]}'")
        mine = [o for o in _offers(file) if o.get("channel") == channel]
        if not mine:
            raise SignatureError(f"the publisher offers {named[2][:12]} to other channels only")
        best = max(mine, key=lambda o: int(o["sequence"]))
        return SignedOffer(
            task=named[1],
            bundle=named[2],
            target=target,
            sequence=int(best["sequence"]),
            retry=bool(best.get("retry", False)),
            manifest=_manifest_file(file, named[2]),
        )

    def delta(self, base: str, full: str) -> TrustedFile | None:
        """The signed delta that makes the file `full` from `base`; None when there is none."""
        file = self._target(f"deltas/{base}-{full}")
        return TrustedFile(file.hashes["sha256"], file.length) if file else None

    def _target(self, path: str) -> TargetFile | None:
        if self._updater is None:
            raise BundleError("the release metadata was not refreshed yet")
        with _mapped_errors():
            return self._updater.get_targetinfo(path)

    def _raise_floor(self) -> None:
        """Compares what was just trusted with what ever was, and remembers the higher."""
        floor = self._floor()
        now = max(self._clock(), floor.clock_unix_s)
        versions = {role: self._check_role(role, now) for role in _ROLES}
        keys = self._guards()
        for role, version in versions.items():
            least = floor.versions.get(role, 0) if keys[role] == floor.keys.get(role) else 0
            if version < least:
                raise RollbackError(f"{role} version {version} is older than the trusted {least}")
        self._write_floor(Floor(versions=versions, keys=keys, clock_unix_s=now))

    def _guards(self) -> dict[str, str]:
        """Which keys say what a role's version is; those of the snapshot count the targets."""
        root = Metadata[Root].from_file(str(self._directory / "root.json")).signed
        by_role = {role: ",".join(sorted(root.roles[role].keyids)) for role in _ROLES}
        return {**by_role, "root": "", "targets": f"{by_role['targets']};{by_role['snapshot']}"}

    def _check_role(self, role: str, now: float) -> int:
        """The version of a role on disk, which the updater has just verified."""
        metadata = Metadata.from_file(str(self._directory / f"{role}.json"))
        if metadata.signed.is_expired(datetime.fromtimestamp(now, UTC)):
            raise ExpiredError(f"{role} is expired; this node's clock has been further already")
        return int(metadata.signed.version)

    def _floor(self) -> Floor:
        try:
            data = (self._directory / _FLOOR).read_bytes()
            return msgspec.json.decode(data, type=Floor)
        except FileNotFoundError:
            return Floor(versions={})
        except (msgspec.DecodeError, ValueError):
            # Only a dying disk writes this: renames are atomic. Trust starts at the root again.
            return Floor(versions={})

    def _write_floor(self, floor: Floor) -> None:
        write_atomic(self._directory / _FLOOR, json.dumps(asdict(floor)).encode())


class _LinkFetcher(FetcherInterface):
    """python-tuf's network, over our link."""

    def __init__(self, source: ArtifactSource, timeout_s: float) -> None:
        self._source = source
        self._timeout_s = timeout_s

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        try:
            data = self._source.metadata(name, self._timeout_s)
        except BundleError as error:
            # A newer root that is not there is how python-tuf learns that it has the newest.
            raise exceptions.DownloadHTTPError(f"no {name}", 404) from error
        return iter((data,))


class _mapped_errors:  # noqa: N801 - reads as a statement
    """Maps python-tuf's two trees of errors onto ours, once."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, exceptions.RepositoryError | exceptions.DownloadError):
            raise _our_error(error) from error
        if isinstance(error, DeserializationError):
            raise SignatureError("the release metadata cannot be read") from error


_ERRORS: tuple[tuple[type[Exception], type[UnderstudyError]], ...] = (
    (exceptions.ExpiredMetadataError, ExpiredError),
    (exceptions.BadVersionNumberError, RollbackError),
    (exceptions.UnsignedMetadataError, SignatureError),
    (exceptions.LengthOrHashMismatchError, DigestError),
    (exceptions.DownloadLengthMismatchError, DigestError),
    (exceptions.DownloadHTTPError, BundleError),
    (exceptions.RepositoryError, SignatureError),
)


def _our_error(error: Exception) -> UnderstudyError:
    if isinstance(error.__cause__, UnderstudyError) and not isinstance(
        error, exceptions.DownloadHTTPError
    ):
        return error.__cause__
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            return ours(f"release metadata refused: {error}")
    return LinkError(f"release metadata could not be fetched: {error}")


def _offers(file: TargetFile) -> list[dict[str, Any]]:
    custom = file.custom or {}
    offers: list[dict[str, Any]] = custom.get("understudy", {}).get("offers", [])
    return offers


def _manifest_file(file: TargetFile, bundle: str) -> TrustedFile:
    """The manifest's digest is the bundle's id; a release that says otherwise is wrong."""
    if file.hashes.get("sha256") != bundle:
        raise SignatureError("the release names a manifest that is not its bundle's")
    return TrustedFile(bundle, file.length)
