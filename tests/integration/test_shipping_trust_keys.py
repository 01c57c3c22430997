"""Who may sign what: keys, thresholds and dates, tabulated, over a real gRPC link.

The second half of the cases of the public TUF client conformance suite, written anew for this
client: its tables of key rotations, and what a root may and may not say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, TargetFile, Targets

from simulators.trusting_node import World, trusting
from simulators.tuf_repository import TufRepository
from understudy.edge.trust import Trust
from understudy.types.errors import BundleError, ExpiredError, SignatureError

PEOPLE = "abcdefgh"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with trusting(tmp_path / "trust") as made:
        yield made


@dataclass(frozen=True)
class Said:
    """One version of a role: whose keys count, how many must sign, and who has signed."""

    keys: str
    threshold: int
    signed: str


class Ceremony:
    """People with one key each, and a repository whose roots they sign."""

    def __init__(self, repository: TufRepository) -> None:
        self.repository = repository
        self.keys = {person: CryptoSigner.generate_ed25519() for person in PEOPLE}

    def hand_over(self, role: str, said: Said) -> None:
        """Writes the keys of a role into the root, and who signs it from now on."""
        self.repository.drop_keys(role)
        for person in said.keys:
            self.repository.root.add_key(self.keys[person].public_key, role)
        self.repository.root.roles[role].threshold = said.threshold
        self.repository.signers[role] = [self.keys[person] for person in said.signed]

    def begin(self, world: World, said: Said) -> None:
        """Makes the very first root, which the node pins."""
        self.hand_over("root", said)
        self.repository.write_root()
        world.root = self.repository.files["1.root.json"]


GOOD_ROOTS = {
    "one-hands-over-to-one": [Said("a", 1, "a"), Said("b", 1, "ab"), Said("b", 1, "b")],
    "strangers-sign-along": [Said("a", 1, "ca"), Said("b", 1, "cbad")],
    "any-three-of-five": [
        Said("abcde", 3, "ace"),
        Said("abcde", 3, "bde"),
        Said("abcde", 3, "abc"),
    ],
    "one-of-five-is-replaced": [Said("abcde", 3, "ace"), Said("abcdf", 3, "acd")],
    "all-five-are-replaced": [Said("abcd", 3, "abd"), Said("efgh", 3, "abdefg")],
    "all-sign-no-more-later": [
        Said("abcd", 3, "abd"),
        Said("efgh", 3, "abdefg"),
        Said("efgh", 3, "fgh"),
    ],
    "more-must-sign": [Said("abc", 1, "a"), Said("abc", 2, "ab")],
    "one-more-joins-and-must-sign": [Said("a", 1, "a"), Said("ab", 2, "ab")],
    "fewer-must-sign": [Said("abc", 2, "ab"), Said("abc", 1, "ab"), Said("abc", 1, "c")],
}
BAD_ROOTS = {
    "not-by-the-old": [Said("a", 1, "a"), Said("b", 1, "bcd")],
    "not-by-the-new": [Said("a", 1, "a"), Said("b", 1, "acd")],
    "two-of-three-old": [Said("abcde", 3, "ace"), Said("abcdf", 3, "adf")],
    "two-of-three-new": [Said("abcde", 3, "ace"), Said("abcdf", 3, "ace")],
    "the-raised-threshold-is-missed": [Said("abc", 1, "a"), Said("abc", 2, "b")],
    "the-old-threshold-is-missed": [Said("abc", 2, "ab"), Said("abc", 1, "a")],
}


class TestRootsInTurn:
    @pytest.mark.parametrize("versions", GOOD_ROOTS.values(), ids=GOOD_ROOTS.keys())
    def test_a_root_is_believed_by_who_signs_it_before_and_after(
        self, world: World, versions: list[Said]
    ) -> None:
        self.play(world, versions)

        assert world.refresh().fresh
        assert len(versions) == world.believed("root")

    @pytest.mark.parametrize("versions", BAD_ROOTS.values(), ids=BAD_ROOTS.keys())
    def test_short_of_either_the_root_before_stays(
        self, world: World, versions: list[Said]
    ) -> None:
        self.play(world, versions)

        with pytest.raises(SignatureError):
            world.refresh()
        assert len(versions) - 1 == world.believed("root")

    def play(self, world: World, versions: list[Said]) -> None:
        ceremony = Ceremony(world.repository)
        ceremony.begin(world, versions[0])
        for said in versions[1:]:
            ceremony.hand_over("root", said)
            world.repository.next_root()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
class TestRolesInTurn:
    @pytest.mark.parametrize(
        "said",
        [
            Said("b", 1, "b"),
            Said("a", 1, "cad"),
            Said("abcde", 3, "ace"),
            Said("abcde", 3, "aeb"),
            Said("abcde", 3, "cde"),
        ],
        ids=["a-new-key", "strangers-along", "three-of-five", "three-others", "three-more"],
    )
    def test_enough_of_its_keys_are_believed(self, world: World, role: str, said: Said) -> None:
        self.play(world, role, said)

        assert world.refresh().fresh
        assert 2 == world.believed(role)

    @pytest.mark.parametrize(
        "said",
        [Said("b", 1, "acd"), Said("abdef", 3, "ace"), Said("abdef", 3, "ae")],
        ids=["only-strangers", "one-of-three-is-a-stranger", "one-is-missing"],
    )
    def test_too_few_are_not(self, world: World, role: str, said: Said) -> None:
        self.play(world, role, said)

        with pytest.raises(SignatureError):
            world.refresh()
        assert 2 != world.believed(role)

    def play(self, world: World, role: str, said: Said) -> None:
        Ceremony(world.repository).hand_over(role, said)
        world.repository.next_root()
        world.repository.publish()


class TestWhatARootMaySay:
    def test_one_key_named_many_times_counts_once(self, world: World) -> None:
        ceremony = Ceremony(world.repository)
        ceremony.hand_over("snapshot", Said("a", 1, "aaa"))
        root = world.repository.root
        root.roles["snapshot"].keyids = [ceremony.keys["a"].public_key.keyid] * 9
        root.roles["snapshot"].threshold = 3
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(BundleError):
            world.refresh()
        assert 2 != world.believed("snapshot")

    def test_a_key_that_is_named_and_not_shown_signs_nothing(self, world: World) -> None:
        stranger = CryptoSigner.generate_ed25519()
        root = world.repository.root
        root.roles["snapshot"].keyids.append(stranger.public_key.keyid)
        root.roles["snapshot"].threshold = 2
        world.repository.signers["snapshot"].append(stranger)
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(BundleError):
            world.refresh()

    def test_a_threshold_that_its_keys_cannot_meet_trusts_nobody(self, world: World) -> None:
        ceremony = Ceremony(world.repository)
        ceremony.hand_over("snapshot", Said("abcde", 6, "abcde"))
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    def test_fields_of_a_later_version_in_keys_and_roles_are_signed_and_ignored(
        self, world: World
    ) -> None:
        root = world.repository.root
        root.unrecognized_fields["x-later"] = "value"
        root.keys[root.roles["root"].keyids[0]].unrecognized_fields["x-later"] = {"a": [1]}
        root.keys[root.roles["root"].keyids[0]].unrecognized_fields["keyid_hash_algorithms"] = [
            "md5"
        ]
        root.roles["root"].unrecognized_fields["x-later"] = 2
        world.repository.next_root()

        assert world.refresh().fresh
        assert 2 == world.believed("root")

    @pytest.mark.parametrize("spoil", ["version", "signature", "type"])
    def test_a_pinned_root_that_is_none_asks_nobody_anything(
        self, world: World, spoil: str
    ) -> None:
        """A node with a damaged configuration must not begin to trust the network instead."""
        plain = json.loads(world.root)
        if spoil == "version":
            del plain["signed"]["version"]
        elif spoil == "signature":
            plain["signatures"][0]["sig"] = "00" * 64
        else:
            plain["signed"]["_type"] = "targets"

        with pytest.raises(BundleError):
            Trust(world.home, json.dumps(plain).encode(), world.link).refresh()
        assert [] == world.shelf.asked


class TestDatesInTurn:
    def test_an_expired_root_is_kept_and_nothing_below_it_is_believed(self, world: World) -> None:
        """It says who may sign, and when it ran out: a node goes on from there, not from before."""
        world.refresh()
        world.repository.expire("root")
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(ExpiredError):
            world.refresh()
        assert (2, 1, 1) == tuple(map(world.believed, ("root", "timestamp", "snapshot")))

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_an_expired_role_does_not_take_the_place_of_the_good_one(
        self, world: World, role: str
    ) -> None:
        world.refresh()
        world.repository.expire(role)
        world.repository.publish()

        with pytest.raises(ExpiredError):
            world.refresh()
        assert 1 == world.believed("targets")

    def test_what_ran_out_on_the_node_is_replaced_by_what_is_fresh(self, world: World) -> None:
        """A node that was off for weeks holds an old timestamp, and is let back in."""
        world.refresh()
        held = world.repository.timestamp
        fresh = held.expires
        held.expires -= timedelta(days=3650)
        (world.home / "timestamp.json").write_bytes(world.repository.write("timestamp"))
        held.expires = fresh
        world.repository.publish()

        assert world.refresh().fresh
        assert 2 == world.believed("timestamp")

    def test_a_snapshot_under_its_old_version_is_not_asked_for_again(self, world: World) -> None:
        """The timestamp says version 2, and the node has it: the server's older one is not read."""
        world.repository.publish()
        world.refresh()
        world.repository.files["2.snapshot.json"] = world.repository.files["1.snapshot.json"]
        world.shelf.asked.clear()

        assert world.refresh().fresh
        assert 2 == world.believed("snapshot")
        assert "2.snapshot.json" not in world.shelf.asked


class TestAnotherTeam:
    """Our publisher delegates nothing; a node would follow one that did, and no further."""

    def test_a_delegated_key_offers_what_lies_below_its_path(self, world: World) -> None:
        self.delegate(world, "bundles/theirs/*/*")

        assert "cd" * 32 == world.refresh().offer(self.target("theirs"), "stable").bundle

    @pytest.mark.parametrize("path", ["bundles/others/*/*", "bundles/*/*", "files/*"])
    def test_and_nothing_that_does_not(self, world: World, path: str) -> None:
        self.delegate(world, path)

        with pytest.raises(SignatureError):
            world.refresh().offer(self.target("theirs"), "stable")

    def target(self, task: str) -> str:
        return f"bundles/{task}/{'cd' * 32}/manifest.json"

    def delegate(self, world: World, path: str) -> None:
        """The publisher signs that a team may offer what lies below `path`; the team offers."""
        repository, signer = world.repository, CryptoSigner.generate_ed25519()
        role = DelegatedRole("team", [signer.public_key.keyid], 1, terminating=True, paths=[path])
        keys: dict[str, Key] = {signer.public_key.keyid: signer.public_key}
        repository.targets.delegations = Delegations(keys, {"team": role})
        offer = {"channel": "stable", "sequence": 7}
        custom = {"custom": {"understudy": {"offers": [offer]}}}
        target = self.target("theirs")
        theirs = Metadata(
            Targets(
                expires=repository.targets.expires,
                targets={target: TargetFile(100, {"sha256": "cd" * 32}, target, custom)},
            )
        )
        theirs.sign(signer)
        repository.files["1.team.json"] = theirs.to_bytes()
        repository.snapshot.meta["team.json"] = MetaFile(1)
        repository.publish()
