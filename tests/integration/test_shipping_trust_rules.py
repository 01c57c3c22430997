"""The rules of The Update Framework, played against our trust over a real gRPC link.

The cases are those of the public TUF client conformance suite that apply to a client without
delegated roles and with consistent snapshots, written anew for this client. Each ends in one of two
ways: the new metadata is believed, or it is refused with the right error and what was believed
before stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from simulators.trusting_node import World, trusting
from simulators.tuf_repository import BUNDLE, TARGET, TufRepository
from understudy.edge.trust import Trust
from understudy.types.errors import (
    BundleError,
    ExpiredError,
    LinkError,
    RollbackError,
    SignatureError,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with trusting(tmp_path / "trust") as made:
        yield made


class TestBasics:
    def test_a_first_refresh_believes_what_the_pinned_root_signed(self, world: World) -> None:
        offer = world.refresh().offer(TARGET, "stable")

        assert (BUNDLE, 1) == (offer.bundle, offer.sequence)

    def test_versioned_names_are_asked_for_so_that_a_publish_tears_nothing(
        self, world: World
    ) -> None:
        world.refresh()

        assert ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"] == (
            world.shelf.asked
        )

    def test_a_second_refresh_fetches_only_what_may_have_changed(self, world: World) -> None:
        world.refresh()
        world.shelf.asked.clear()

        world.refresh()

        assert ["2.root.json", "timestamp.json"] == world.shelf.asked

    def test_new_versions_are_believed(self, world: World) -> None:
        world.refresh()
        world.repository.offer(TARGET, BUNDLE, channel="stable", sequence=2)
        world.repository.publish()

        assert 2 == world.refresh().offer(TARGET, "stable").sequence

    @pytest.mark.parametrize("hashed", [True, False], ids=["with-hashes", "without-hashes"])
    def test_hashes_in_the_role_above_are_optional(self, world: World, *, hashed: bool) -> None:
        world.repository.hashed = hashed
        world.repository.publish()

        assert world.refresh().fresh

    def test_fields_of_a_later_version_are_ignored(self, world: World) -> None:
        world.repository.targets.unrecognized_fields["x-later"] = {"more": [1, 2]}
        world.repository.publish()

        assert world.refresh().fresh

    def test_other_content_under_a_version_already_believed_changes_nothing(
        self, world: World
    ) -> None:
        world.refresh()
        before = (world.home / "timestamp.json").read_bytes()
        world.repository.timestamp.unrecognized_fields["x"] = "other"
        world.repository.write("timestamp")

        world.refresh()

        assert before == (world.home / "timestamp.json").read_bytes()

    def test_a_server_that_is_away_changes_nothing(self, world: World) -> None:
        world.refresh()
        world.shelf.down = True

        with pytest.raises(LinkError):
            world.refresh()
        assert 1 == world.believed("timestamp")

    def test_a_missing_snapshot_is_no_reason_to_do_without(self, world: World) -> None:
        world.shelf.metadata_instead["1.snapshot.json"] = None

        with pytest.raises(BundleError):
            world.refresh()
        assert 0 == world.believed("targets")


class TestDates:
    @pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
    def test_an_expired_role_stops_updates(self, world: World, role: str) -> None:
        """A freeze: a server that shows old metadata for ever is noticed when it runs out."""
        world.refresh()
        world.repository.expire(role)
        if role == "root":
            world.repository.next_root()
        world.repository.publish()

        with pytest.raises(ExpiredError):
            world.refresh()

    def test_an_expired_root_on_the_way_to_a_fresh_one_is_fine(self, world: World) -> None:
        fresh = world.repository.root.expires
        world.repository.expire("root")
        world.repository.next_root()
        world.repository.root.expires = fresh
        world.repository.next_root()

        assert world.refresh().fresh
        assert 3 == world.believed("root")

    def test_an_expired_timestamp_still_guards_against_going_back(self, world: World) -> None:
        """It was fresh when it was fetched; then the node was off for long."""
        world.refresh()
        fresh = world.repository.timestamp.expires
        world.repository.timestamp.version = 5
        world.repository.expire("timestamp")
        (world.home / "timestamp.json").write_bytes(world.repository.write("timestamp"))
        world.repository.timestamp.version = 4
        world.repository.timestamp.expires = fresh
        world.repository.write_all()

        with pytest.raises(RollbackError):
            world.refresh()

    def test_a_clock_that_is_set_back_does_not_make_old_metadata_fresh(self, world: World) -> None:
        """A node without a battery clock starts in the past: it knows that it was later already."""
        expires = world.repository.timestamp.expires
        later = expires.timestamp() - 60
        Trust(world.home, world.root, world.link, clock=lambda: later).refresh()
        world.repository.timestamp.expires = expires - timedelta(hours=1)
        world.repository.publish()

        with pytest.raises(ExpiredError):
            world.refresh()


class TestGoingBack:
    def test_an_older_timestamp_is_refused(self, world: World) -> None:
        world.repository.timestamp.version = 3
        world.repository.write_all()
        world.refresh()
        world.repository.timestamp.version = 2
        world.repository.write_all()

        with pytest.raises(RollbackError):
            world.refresh()
        assert 3 == world.believed("timestamp")

    @pytest.mark.parametrize("hashed", [True, False], ids=["with-hashes", "without-hashes"])
    def test_a_newer_timestamp_with_an_older_snapshot_is_refused(
        self, world: World, *, hashed: bool
    ) -> None:
        world.repository.hashed = hashed
        world.repository.publish()
        world.refresh()
        world.repository.timestamp.version += 1
        world.repository.timestamp.snapshot_meta.version = 1
        world.repository.write("timestamp")

        with pytest.raises(RollbackError):
            world.refresh()

    @pytest.mark.parametrize("hashed", [True, False], ids=["with-hashes", "without-hashes"])
    def test_a_newer_snapshot_with_older_targets_is_refused(
        self, world: World, *, hashed: bool
    ) -> None:
        world.repository.hashed = hashed
        world.repository.publish()
        world.refresh()
        world.repository.targets.version = 1
        world.repository.snapshot.version += 1
        world.repository.timestamp.version += 1
        world.repository.write_all()

        with pytest.raises(RollbackError):
            world.refresh()
        assert 2 == world.believed("targets")

    def test_a_snapshot_that_forgets_the_targets_is_refused(self, world: World) -> None:
        world.refresh()
        repository = world.repository
        repository.snapshot.version += 1
        repository.snapshot.meta.clear()
        data = repository.write("snapshot")
        repository.timestamp.version += 1
        repository.timestamp.snapshot_meta.version = repository.snapshot.version
        repository.timestamp.snapshot_meta.length = len(data)
        repository.timestamp.snapshot_meta.hashes = None
        repository.write("timestamp")

        with pytest.raises(SignatureError):
            world.refresh()

    def test_a_cache_that_was_lost_does_not_let_old_metadata_in(self, world: World) -> None:
        """python-tuf does not sync its files: after a power cut they may be gone, our floor not."""
        world.repository.publish()
        world.refresh()
        (world.home / "timestamp.json").unlink()
        (world.home / "snapshot.json").unlink()
        (world.home / "targets.json").unlink()
        for role in ("targets", "snapshot", "timestamp"):
            getattr(world.repository, role).version = 1
        world.repository.write_all()

        with pytest.raises(RollbackError):
            world.refresh()

    @pytest.mark.parametrize("far", ["timestamp", "snapshot", "targets"])
    def test_new_keys_recover_from_versions_driven_far_ahead(self, world: World, far: str) -> None:
        """A thief of the online keys signs version 10,000; new keys may count from here."""
        getattr(world.repository, far).version = 10_000
        world.repository.write_all()
        world.refresh()
        for role in ("timestamp", "snapshot"):
            world.repository.drop_keys(role)
            world.repository.add_key(role)
        world.repository.next_root()
        getattr(world.repository, far).version = 1
        world.repository.publish()

        assert world.refresh().fresh
        assert 2 == world.believed(far)

    @pytest.mark.parametrize("far", ["timestamp", "snapshot", "targets"])
    def test_without_new_keys_a_version_never_falls(self, world: World, far: str) -> None:
        getattr(world.repository, far).version = 10_000
        world.repository.write_all()
        world.refresh()
        getattr(world.repository, far).version = 1
        world.repository.publish()

        with pytest.raises(RollbackError):
            world.refresh()


class TestMixAndMatch:
    def test_a_snapshot_of_another_version_than_the_timestamp_says_is_refused(
        self, world: World
    ) -> None:
        old = world.repository.files["1.snapshot.json"]
        world.repository.publish()
        world.shelf.metadata_instead["2.snapshot.json"] = old

        with pytest.raises(BundleError):
            world.refresh()
        assert 0 == world.believed("targets")

    def test_targets_of_another_version_than_the_snapshot_says_are_refused(
        self, world: World
    ) -> None:
        old = world.repository.files["1.targets.json"]
        world.repository.publish()
        world.shelf.metadata_instead["2.targets.json"] = old

        with pytest.raises(BundleError):
            world.refresh()
        assert 0 == world.believed("targets")

    def test_versions_alone_tell_a_mix_when_there_are_no_hashes(self, world: World) -> None:
        world.repository.hashed = False
        world.repository.write_all()
        old = world.repository.files["1.targets.json"]
        world.repository.publish()
        world.shelf.metadata_instead["2.targets.json"] = old

        with pytest.raises(RollbackError):
            world.refresh()

    @pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
    def test_one_role_cannot_stand_in_for_another(self, world: World, name: str) -> None:
        world.repository.hashed = False
        world.repository.write_all()
        world.shelf.metadata_instead[name] = world.root

        with pytest.raises(BundleError):
            world.refresh()


class TestSignatures:
    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_a_role_without_a_signature_is_refused(self, world: World, role: str) -> None:
        world.repository.signers[role] = []
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_a_signature_by_the_key_of_another_role_is_refused(
        self, world: World, role: str
    ) -> None:
        other = "targets" if role != "targets" else "snapshot"
        world.repository.signers[role] = world.repository.signers[other]
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_one_signature_does_not_meet_a_threshold_of_two(self, world: World, role: str) -> None:
        world.repository.add_key(role, signs=False)
        world.repository.root.roles[role].threshold = 2
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_two_signatures_meet_a_threshold_of_two(self, world: World, role: str) -> None:
        world.repository.add_key(role)
        world.repository.root.roles[role].threshold = 2
        world.repository.next_root()
        world.repository.publish()

        assert world.refresh().fresh

    def test_a_role_without_keys_trusts_nobody(self, world: World) -> None:
        world.repository.drop_keys("snapshot")
        world.repository.next_root()
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_a_key_that_was_replaced_signs_nothing_any_more(self, world: World, role: str) -> None:
        world.refresh()
        stolen = world.repository.drop_keys(role)
        world.repository.add_key(role)
        world.repository.next_root()
        world.repository.signers[role] = stolen
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh()

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_a_new_key_signs_at_once(self, world: World, role: str) -> None:
        world.refresh()
        world.repository.drop_keys(role)
        world.repository.add_key(role)
        world.repository.next_root()
        world.repository.publish()

        assert world.refresh().fresh

    def test_a_pinned_root_that_does_not_sign_itself_is_no_root(self, world: World) -> None:
        bare = Metadata(world.repository.root).to_bytes()

        with pytest.raises(SignatureError):
            Trust(world.home, bare, world.link).refresh()


def _both(repository: TufRepository) -> None:
    old = repository.drop_keys("root")
    repository.add_key("root")
    repository.next_root(*old)


def _new_only(repository: TufRepository) -> None:
    repository.drop_keys("root")
    repository.add_key("root")
    repository.next_root()


def _old_only(repository: TufRepository) -> None:
    old = repository.drop_keys("root")
    repository.add_key("root", signs=False)
    repository.next_root(*old)


def _raised_threshold_met(repository: TufRepository) -> None:
    repository.add_key("root")
    repository.root.roles["root"].threshold = 2
    repository.next_root()


def _raised_threshold_missed(repository: TufRepository) -> None:
    repository.add_key("root", signs=False)
    repository.root.roles["root"].threshold = 2
    repository.next_root()


def _skips_a_version(repository: TufRepository) -> None:
    repository.root.version += 1
    repository.next_root()
    repository.files["2.root.json"] = repository.files.pop("3.root.json")


def _same_version_again(repository: TufRepository) -> None:
    repository.files["2.root.json"] = repository.files["1.root.json"]


def _no_json(repository: TufRepository) -> None:
    repository.files["2.root.json"] = b"\x00\x01 nothing"


def _another_role(repository: TufRepository) -> None:
    repository.files["2.root.json"] = repository.files["1.targets.json"]


class TestRoots:
    @pytest.mark.parametrize("rotate", [_both, _raised_threshold_met])
    def test_a_new_root_signed_by_old_and_new_keys_is_believed(
        self, world: World, rotate: Callable[[TufRepository], None]
    ) -> None:
        rotate(world.repository)

        assert world.refresh().fresh
        assert 2 == world.believed("root")

    @pytest.mark.parametrize(
        "forge",
        [
            _new_only,
            _old_only,
            _raised_threshold_missed,
            _skips_a_version,
            _same_version_again,
            _no_json,
            _another_role,
        ],
    )
    def test_a_new_root_that_is_not_is_refused(
        self, world: World, forge: Callable[[TufRepository], None]
    ) -> None:
        forge(world.repository)

        with pytest.raises(BundleError):
            world.refresh()
        assert 1 == world.believed("root")

    def test_a_node_long_away_walks_through_every_root(self, world: World) -> None:
        for _ in range(30):
            _both(world.repository)

        assert world.refresh().fresh
        assert 31 == world.believed("root")

    def test_a_threshold_may_fall_when_the_old_one_is_met(self, world: World) -> None:
        _raised_threshold_met(world.repository)
        world.refresh()
        world.repository.root.roles["root"].threshold = 1
        world.repository.next_root()

        assert world.refresh().fresh
        assert 3 == world.believed("root")

    def test_a_threshold_may_not_fall_by_one_of_two_signatures(self, world: World) -> None:
        _raised_threshold_met(world.repository)
        world.refresh()
        world.repository.root.roles["root"].threshold = 1
        world.repository.signers["root"] = world.repository.signers["root"][:1]
        world.repository.next_root()

        with pytest.raises(SignatureError):
            world.refresh()
        assert 2 == world.believed("root")


class TestEndlessData:
    @pytest.mark.parametrize(
        ("name", "size"),
        [("timestamp.json", 17_000), ("2.root.json", 600_000), ("1.snapshot.json", 50_000)],
    )
    def test_metadata_longer_than_it_may_be_is_refused(
        self, world: World, name: str, size: int
    ) -> None:
        world.shelf.metadata_instead[name] = b"{" + b" " * size

        with pytest.raises(BundleError):
            world.refresh()

    def test_a_message_without_end_is_stopped_by_the_link(self, world: World) -> None:
        world.shelf.metadata_instead["timestamp.json"] = b" " * (5 << 20)

        with pytest.raises(Exception, match=r"larger than max|could not be fetched") as caught:
            world.refresh()
        assert "understudy.types.errors" == type(caught.value).__module__


class TestOffers:
    def test_a_bundle_nobody_signed_is_not_offered(self, world: World) -> None:
        trust = world.refresh()

        with pytest.raises(SignatureError):
            trust.offer(TARGET.replace(BUNDLE, "cd" * 32), "stable")

    def test_a_bundle_of_another_channel_is_not_offered(self, world: World) -> None:
        with pytest.raises(SignatureError):
            world.refresh().offer(TARGET, "canary")

    @pytest.mark.parametrize("path", ["", "../../etc/passwd", "files/" + "ab" * 32, TARGET + "x"])
    def test_a_hint_is_no_path_to_anything_else(self, world: World, path: str) -> None:
        with pytest.raises(SignatureError):
            world.refresh().offer(path, "stable")

    def test_a_release_whose_name_is_not_its_digest_is_refused(self, world: World) -> None:
        world.repository.offer(
            TARGET.replace(BUNDLE, "cd" * 32), BUNDLE, channel="stable", sequence=9
        )
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh().offer(TARGET.replace(BUNDLE, "cd" * 32), "stable")

    def test_a_withdrawn_release_is_gone(self, world: World) -> None:
        world.refresh()
        targets: Targets = world.repository.targets
        del targets.targets[TARGET]
        world.repository.publish()

        with pytest.raises(SignatureError):
            world.refresh().offer(TARGET, "stable")

    def test_nothing_is_believed_before_a_refresh(self, world: World) -> None:
        with pytest.raises(BundleError):
            Trust(world.home, world.root, world.link).offer(TARGET, "stable")
