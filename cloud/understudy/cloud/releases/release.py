"""The noun of this folder: a bundle offered to a channel, as it stands in signed metadata.

Target paths of the TUF repository:

    bundles/<task>/<bundle id>/manifest.json    a bundle; its `custom` lists the offers
    files/<sha256>                              one file of a bundle
    deltas/<base sha256>-<full sha256>          how to make one file from another
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from tuf.api.metadata import Targets

from understudy.types.bundle import MANIFEST
from understudy.types.errors import BundleError, InvalidValueError

CUSTOM = "understudy"
SEQUENCE = "x-understudy-sequence"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUNDLE_PATH = re.compile(r"bundles/([^/]+)/([0-9a-f]{64})/manifest\.json")


class ReleaseKind(StrEnum):
    """How a bundle came to be offered."""

    PUBLISH = "publish"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the publisher signs about a bundle in one channel.

    Attributes:
        channel: Name of the channel.
        sequence: Grows by one with every release of the repository; a node only goes forward.
        kind: How the bundle came to be offered.
        published_unix_s: When, whole seconds since 1970: canonical JSON knows no fractions.
        retry: True if nodes on which this bundle failed before shall try it again.
        note: Why, in the publisher's words.
    """

    channel: str
    sequence: int
    kind: ReleaseKind
    published_unix_s: int
    retry: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One bundle offered to one channel.

    Attributes:
        task: Name of the task.
        bundle: Id of the bundle, the sha256 of its manifest.
        target: TUF target path of the manifest.
        offer: What was signed about it.
    """

    task: str
    bundle: str
    target: str
    offer: Offer

    @property
    def channel(self) -> str:
        """The channel it is offered to."""
        return self.offer.channel

    @property
    def sequence(self) -> int:
        """Its place in the order of all releases."""
        return self.offer.sequence


def check_name(kind: str, name: str) -> str:
    """Returns `name` if a task or channel may have it.

    Raises:
        InvalidValueError: If it could not be part of a path.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            f"the {kind} '{name}' must be 1 to 64 letters, digits, '.', '_' or '-'"
        )
    return name


def bundle_target(task: str, bundle: str) -> str:
    """The target path of a bundle's manifest."""
    return f"bundles/{check_name('task', task)}/{bundle}/{MANIFEST}"


def file_target(sha256: str) -> str:
    """The target path of a bundle's file."""
    return f"files/{sha256}"


def delta_target(base: str, full: str) -> str:
    """The target path of what makes the file `full` from the file `base`; both sha256."""
    return f"deltas/{base}-{full}"


def parse_bundle_target(target: str) -> tuple[str, str] | None:
    """Task and bundle id of a manifest's target path; None for any other path."""
    match = _BUNDLE_PATH.fullmatch(target)
    return (match[1], match[2]) if match else None


def encode_offers(offers: Iterable[Offer]) -> dict[str, Any]:
    """The `custom` of a manifest's target."""
    return {CUSTOM: {"offers": msgspec.to_builtins(sorted(offers, key=lambda o: o.sequence))}}


def decode_offers(custom: Mapping[str, Any] | None) -> tuple[Offer, ...]:
    """Reads the offers back.

    Raises:
        BundleError: If the publisher signed something this version does not understand.
    """
    plain = (custom or {}).get(CUSTOM, {}).get("offers", [])
    try:
        return msgspec.convert(plain, tuple[Offer, ...])
    except msgspec.ValidationError as error:
        raise BundleError(f"the signed offers cannot be read: {error}") from error


def releases_of(targets: Targets) -> list[Release]:
    """Every release that targets metadata lists, oldest first."""
    found = []
    for path, file in targets.targets.items():
        named = parse_bundle_target(path)
        if named is None:
            continue
        found += [
            Release(task=named[0], bundle=named[1], target=path, offer=offer)
            for offer in decode_offers(file.custom)
        ]
    return sorted(found, key=lambda r: r.sequence)
