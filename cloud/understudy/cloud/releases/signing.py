"""The publisher's pen: signs root and targets, and puts on the disk only what will be believed.

Every signature is checked with the root that nodes will judge it by, before a byte is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from understudy.cloud.releases.keys import KeyRing, Signed
from understudy.cloud.releases.release import SEQUENCE
from understudy.cloud.releases.roles import Lifetimes, RoleFiles, S, expiry, sign
from understudy.types.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Who may sign for a role from now on.

    Attributes:
        role: `root`, `targets`, `snapshot` or `timestamp`.
        keys: The public keys that replace the present ones.
        threshold: How many of them must sign.
    """

    role: str
    keys: tuple[Key, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(self.keys):
            raise ConfigError(
                f"{self.threshold} keys must sign for {self.role}, but {len(self.keys)} are given"
            )


class Pen:
    """Signs with the keys of a ring; the caller holds the folder's lock."""

    def __init__(
        self, roles: RoleFiles, keys: KeyRing, lifetimes: Lifetimes, clock: Callable[[], float]
    ) -> None:
        self._roles = roles
        self._keys = keys
        self._lifetimes = lifetimes
        self._clock = clock

    def write_targets(self, targets: Targets, root: Root) -> None:
        """Signs what may be installed, as the next version.

        Raises:
            ConfigError: If too few of the keys that `root` names can sign.
        """
        self._write_targets(self._signed_targets(targets, (root,)))

    def newest_targets(self, root: Root) -> Targets:
        """What may be installed, as it was signed last.

        Raises:
            BundleError: If there are no targets that `root` trusts.
            ConfigError: If the disk has lost what these keys have signed: whoever has the
                server's disk must not have us sign again what was withdrawn since.
        """
        targets, last = self._roles.targets(root).signed, self._keys.last_signed()
        if targets.version < last.targets:
            raise ConfigError(
                f"the newest targets in {self._roles.directory} are version {targets.version}, but "
                f"these keys have signed version {last.targets}; bring the missing files back, or, "
                "if an older copy was restored on purpose, `understudy release renew --restored`"
            )
        return targets

    def restored_targets(self, root: Root) -> Targets:
        """What may be installed by the disk, though more was signed since: counted on from there.

        Raises:
            BundleError: If there are no targets that `root` trusts.
        """
        targets, last = self._roles.targets(root).signed, self._keys.last_signed()
        sequence = max(int(targets.unrecognized_fields.get(SEQUENCE, 0)), last.sequence)
        targets.unrecognized_fields[SEQUENCE] = sequence
        return targets

    def write_first_root(self, root: Root) -> None:
        """Signs the root where trust begins; what the ring has signed elsewhere is forgotten.

        Raises:
            ConfigError: If too few of its own keys can sign.
        """
        self._roles.write(Root.type, self._signed_root(root, ()))
        self._keys.note_signed(Signed())

    def change_root(self, before: Root, changes: Sequence[KeyChange] = ()) -> None:
        """Signs the next root, by the keys before and after, and with it the targets.

        The targets are signed first, by the keys before and after: wherever a cut falls, there
        are targets that the newest root on the disk trusts.

        Args:
            before: The root that nodes trust now.
            changes: Whose keys are replaced; none only moves the date on.

        Raises:
            ConfigError: If too few keys can sign; nothing is written then.
            BundleError: If there are no targets that `before` trusts.
        """
        after = _changed(before, changes)
        root = self._signed_root(after, (before,))
        if any(change.role == Targets.type for change in changes):
            # Only what the publisher has signed is signed again: not what a thief left on the disk.
            self._write_targets(self._signed_targets(self.newest_targets(before), (after, before)))
        self._roles.write(Root.type, root)

    def _write_targets(self, targets: Metadata[Targets]) -> None:
        self._roles.write(Targets.type, targets)
        sequence = int(targets.signed.unrecognized_fields.get(SEQUENCE, 0))
        self._keys.note_signed(Signed(targets=targets.signed.version, sequence=sequence))

    def _signed_root(self, root: Root, before: tuple[Root, ...]) -> Metadata[Root]:
        root.expires = expiry(self._clock(), self._lifetimes.root)
        metadata = self._signed(root, Root.type, (root, *before))
        for judge in (*before, root):
            _require(judge, Root.type, metadata)
        return metadata

    def _signed_targets(self, targets: Targets, roots: tuple[Root, ...]) -> Metadata[Targets]:
        seen = (*self._roles.versions(Targets.type), self._keys.last_signed().targets)
        targets.version = max(seen) + 1
        targets.expires = expiry(self._clock(), self._lifetimes.targets)
        metadata = self._signed(targets, Targets.type, roots)
        _require(roots[0], Targets.type, metadata)
        return metadata

    def _signed(self, signed: S, role: str, roots: tuple[Root, ...]) -> Metadata[S]:
        """Signed by each of our keys that one of the roots names."""
        keyids = {keyid for root in roots for keyid in root.roles[role].keyids}
        try:
            return sign(Metadata(signed), self._keys.signers(role, keyids))
        except UnsignedMetadataError as error:
            cause = error.__cause__
            if isinstance(cause, ConfigError):
                raise cause from error
            raise ConfigError(f"a key of the role {role} did not sign: {error}") from error


def _changed(before: Root, changes: Sequence[KeyChange]) -> Root:
    """The next root: the same, but for the keys that are replaced."""
    after = deepcopy(before)
    after.version += 1
    for change in changes:
        for keyid in list(after.roles[change.role].keyids):
            after.revoke_key(keyid, change.role)
        for key in change.keys:
            after.add_key(key, change.role)
        after.roles[change.role].threshold = change.threshold
    return after


def _require(judge: Root, role: str, metadata: Metadata[S]) -> None:
    """Refuses what a node that trusts `judge` would refuse."""
    result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if not result.verified:
        named = ", ".join(keyid[:12] for keyid in sorted(result.unsigned))
        raise ConfigError(
            f"{result.threshold} {role} keys must sign, but only {len(result.signed)} of them did; "
            f"bring the files of the others to where keys.json is ({named})"
        )
