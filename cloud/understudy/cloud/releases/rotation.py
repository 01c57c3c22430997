"""New keys for old: made, signed in by the root before and after, and the old ones forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from understudy.cloud.releases.keys import FolderKeyRing
from understudy.cloud.releases.signing import KeyChange
from understudy.types.errors import ConfigError


class KeyHolder(StrEnum):
    """Whose keys are replaced."""

    ROOT = "root"
    TARGETS = "targets"
    ONLINE = "online"
    """The server's two: snapshot and timestamp."""


_ROLES = {
    KeyHolder.ROOT: (Root.type,),
    KeyHolder.TARGETS: (Targets.type,),
    KeyHolder.ONLINE: (Snapshot.type, Timestamp.type),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideKey:
    """A key that lies in a service: the URI that signs, and what checks it."""

    uri: str
    public: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What to replace, and by what.

    Attributes:
        holder: Whose keys.
        made: Keys to make, each a file under the ring's passphrase.
        outside: Keys that lie in a service.
        threshold: How many of all these must sign.
    """

    holder: KeyHolder
    made: int = 1
    outside: tuple[OutsideKey, ...] = ()
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.made + len(self.outside):
            raise ConfigError(
                f"{self.threshold} keys must sign for {self.holder}, but only "
                f"{self.made + len(self.outside)} are given; make more or lower the threshold"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What was replaced: ids of keys, and the version of the root that says so."""

    root_version: int
    fresh: tuple[str, ...]
    retired: tuple[str, ...]


def rotate(rotation: Rotation, ring: FolderKeyRing, change_keys: Callable[..., int]) -> Rotated:
    """Replaces the keys of one holder.

    A cut leaves the old keys or the new ones trusted, and either way the ring holds those that
    are: keys that no root names sign nothing.

    Args:
        rotation: What to replace.
        ring: Where the holder's keys are listed; not always where the root's are.
        change_keys: `Publisher.change_keys`.

    Raises:
        ConfigError: If too few root keys can sign; the new keys are forgotten then. If a key is
            named that the ring lists for the role already.
    """
    roles = _ROLES[rotation.holder]
    old = {role: _ids(ring.keys(role)) for role in roles}
    _require_others(rotation, old)
    fresh = {role: _fresh(rotation, ring, role) for role in roles}
    try:
        version = change_keys(
            *(KeyChange(role, tuple(fresh[role]), rotation.threshold) for role in roles)
        )
    except BaseException:
        _forget(ring, {role: _ids(keys) for role, keys in fresh.items()})
        raise
    _forget(ring, old)
    return Rotated(
        root_version=version,
        fresh=tuple(key.keyid for role in roles for key in fresh[role]),
        retired=tuple(keyid for role in roles for keyid in old[role]),
    )


def _require_others(rotation: Rotation, old: dict[str, list[str]]) -> None:
    """A key that is to stay and to go would be forgotten while the root trusts it."""
    kept = {key.public.keyid for key in rotation.outside}
    for role, keyids in old.items():
        for keyid in kept.intersection(keyids):
            raise ConfigError(
                f"the key {keyid[:12]} signs for {role} already; name another, or edit its uri in "
                "keys.json"
            )


def _fresh(rotation: Rotation, ring: FolderKeyRing, role: str) -> list[Key]:
    made = [ring.generate(role) for _ in range(rotation.made)]
    for key in rotation.outside:
        ring.add(role, key.uri, key.public)
    return [*made, *(key.public for key in rotation.outside)]


def _forget(ring: FolderKeyRing, gone: dict[str, list[str]]) -> None:
    for role, keyids in gone.items():
        for keyid in keyids:
            ring.forget(role, keyid)


def _ids(keys: Sequence[Key]) -> list[str]:
    return [key.keyid for key in keys]
