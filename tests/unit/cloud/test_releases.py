"""Rules of the release repository: who can sign what, and what stays installable."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from simulators.bundles import TASK, build_bundle
from understudy.cloud.releases import (
    Lifetimes,
    Publisher,
    PublisherSettings,
    ReleaseKind,
    ReleaseRepository,
    ReleaseStore,
    explain,
)
from understudy.cloud.releases.keys import FolderKeyRing
from understudy.cloud.releases.signing import KeyChange
from understudy.types.bundle import ENCODER, HEAD, Lineage
from understudy.types.errors import BundleError, ConfigError, InvalidValueError, SignatureError

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test
DAY_S = 86_400.0
NOW = 1_800_000_000.0


@pytest.fixture(scope="session")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six bundles of one task that differ in the head."""
    folder = tmp_path_factory.mktemp("nights")
    for number in range(6):
        build_bundle(folder / str(number), seed=number)
    return [folder / str(number) for number in range(6)]


@dataclass
class Desk:
    """A repository with both sides, and a clock."""

    home: Path
    now: float = NOW

    def __post_init__(self) -> None:
        self.repository = ReleaseRepository.create(
            self.home / "server", self.home / "keys", PASSPHRASE, clock=lambda: self.now
        )
        self.publisher: Publisher = self.repository.publisher(self.home / "keys", PASSPHRASE)
        self.store: ReleaseStore = self.repository.store()

    def words(self, bundle: str) -> list[str]:
        return [f.sentence for f in explain(self.home / "server", bundle, self.now)]

    def believes(self, bundle: str) -> bool:
        return all(f.holds for f in explain(self.home / "server", bundle, self.now))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def bundle_of(folder: Path) -> str:
    import hashlib

    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


class TestPublishing:
    def test_a_published_bundle_is_listed_with_all_its_bytes(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        release = desk.publisher.publish(nights[0], "stable", note="first")

        assert [release] == desk.store.releases()
        assert (TASK, bundle_of(nights[0]), 1, "first") == (
            release.task, release.bundle, release.sequence, release.offer.note,
        )  # fmt: skip
        for file in nights[0].iterdir():
            blob, size = desk.store.open_blob(_digest(file))
            with blob:
                assert (file.read_bytes(), size) == (blob.read(), file.stat().st_size)

    def test_sequences_only_grow_over_channels_and_rollbacks(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        first = desk.publisher.publish(nights[0], "canary")
        second = desk.publisher.promote(TASK, first.bundle, "stable")
        third = desk.publisher.publish(nights[1], "stable")
        fourth = desk.publisher.rollback(TASK, "stable")

        assert [1, 2, 3, 4] == [r.sequence for r in (first, second, third, fourth)]
        assert (first.bundle, ReleaseKind.ROLLBACK) == (fourth.bundle, fourth.offer.kind)

    def test_a_rollback_withdraws_the_bad_bundle(self, desk: Desk, nights: list[Path]) -> None:
        """What is not signed any more cannot be installed, whoever holds the server."""
        desk.publisher.publish(nights[0], "stable")
        bad = desk.publisher.publish(nights[1], "stable")
        desk.publisher.rollback(TASK, "stable")

        assert bad.bundle not in {r.bundle for r in desk.store.releases()}

    def test_only_the_last_few_releases_of_a_channel_stay_installable(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        for night in nights:
            desk.publisher.publish(night, "stable")

        assert [bundle_of(n) for n in nights[-3:]] == [r.bundle for r in desk.store.releases()]

    def test_what_nothing_refers_to_is_collected(self, desk: Desk, nights: list[Path]) -> None:
        for night in nights:
            desk.publisher.publish(night, "stable")

        desk.store.refresh()

        assert desk.store.collect_garbage() > 0
        for release in desk.store.releases():
            assert desk.believes(release.bundle)
        with pytest.raises(BundleError):
            desk.store.open_blob(bundle_of(nights[0]))

    def test_a_broken_bundle_is_refused_before_anything_is_signed(
        self, desk: Desk, nights: list[Path], tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        for file in nights[0].iterdir():
            (broken / file.name).write_bytes(file.read_bytes())
        (broken / HEAD).write_bytes(b"other")
        with pytest.raises(BundleError):
            desk.publisher.publish(broken, "stable")

        assert [] == desk.store.releases()

    @pytest.mark.parametrize("channel", ["", "../up", "a/b", "x" * 65, ".hidden"])
    def test_a_channel_is_a_plain_name(self, desk: Desk, nights: list[Path], channel: str) -> None:
        with pytest.raises(InvalidValueError):
            desk.publisher.publish(nights[0], channel)

    def test_nothing_can_be_promoted_that_was_not_published(self, desk: Desk) -> None:
        with pytest.raises(BundleError, match="publish it first"):
            desk.publisher.promote(TASK, "ab" * 32, "stable")

    def test_there_must_be_something_to_go_back_to(self, desk: Desk, nights: list[Path]) -> None:
        desk.publisher.publish(nights[0], "stable")
        with pytest.raises(BundleError, match="no earlier bundle"):
            desk.publisher.rollback(TASK, "stable")

    def test_deltas_are_dropped_when_they_save_too_little(
        self, tmp_path: Path, nights: list[Path]
    ) -> None:
        settings = PublisherSettings(delta_ceiling=0.0)
        repository = ReleaseRepository.create(
            tmp_path / "s", tmp_path / "k", PASSPHRASE, settings=settings
        )
        publisher = repository.publisher(tmp_path / "k", PASSPHRASE)
        for night in nights[:2]:
            publisher.publish(night, "stable")
        targets = repository.store()._targets().signed.targets

        assert not [path for path in targets if path.startswith("deltas/")]


class TestKeys:
    def test_the_publishers_keys_open_with_the_passphrase_only(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        stranger = desk.repository.publisher(desk.home / "keys", "wrong")
        with pytest.raises(ConfigError, match="passphrase"):
            stranger.publish(nights[0], "stable")

        assert b"ENCRYPTED" in next((desk.home / "keys").glob("targets-*.pem")).read_bytes()

    def test_private_keys_are_readable_by_their_owner_only(self, desk: Desk) -> None:
        for pem in desk.home.rglob("*.pem"):
            assert 0o600 == stat.S_IMODE(pem.stat().st_mode)

    def test_an_empty_passphrase_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            ReleaseRepository.create(tmp_path / "s", tmp_path / "k", "")

    def test_the_publishers_keys_may_not_lie_in_what_is_served(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            ReleaseRepository.create(tmp_path / "s", tmp_path / "s" / "keys", PASSPHRASE)

    def test_a_repository_is_never_made_over_another(self, desk: Desk) -> None:
        with pytest.raises(ConfigError):
            ReleaseRepository.create(desk.home / "server", desk.home / "other", PASSPHRASE)

    def test_a_folder_without_repository_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no release repository"):
            ReleaseRepository.open(tmp_path)

    def test_a_key_service_is_named_by_its_uri(self, tmp_path: Path) -> None:
        """The interface for a KMS: a URI in keys.json, opened by securesystemslib."""
        from cryptography.hazmat.primitives import serialization
        from securesystemslib.signer import CryptoSigner

        signer = CryptoSigner.generate_ed25519()
        pem = signer._private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (tmp_path / "elsewhere.pem").write_bytes(pem)
        ring = FolderKeyRing(tmp_path / "ring", PASSPHRASE)
        ring.add("targets", f"file2:{tmp_path / 'elsewhere.pem'}", signer.public_key)

        assert signer.public_key.keyid == ring.signers("targets")[0].sign(b"x").keyid

    def test_a_new_targets_key_signs_and_the_old_one_no_longer_counts(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        ring = FolderKeyRing(desk.home / "keys", PASSPHRASE)
        desk.publisher.publish(nights[0], "stable")
        old = ring.keys("targets")[0]
        new = ring.generate("targets")
        desk.publisher.change_keys(KeyChange("targets", (new,)))
        ring.forget("targets", old.keyid)
        desk.publisher.publish(nights[1], "stable")
        desk.store.refresh()

        assert 2 == len(desk.store.releases())
        assert desk.believes(bundle_of(nights[1]))
        newest = Metadata[Root].from_bytes(desk.store.trusted_root()).signed
        assert [new.keyid] == newest.roles["targets"].keyids

    def test_a_change_of_root_keys_needs_the_old_ones(
        self, tmp_path: Path, nights: list[Path]
    ) -> None:
        ReleaseRepository.create(
            tmp_path / "s", tmp_path / "k", PASSPHRASE, root_keys=3, root_threshold=2
        )
        ring = FolderKeyRing(tmp_path / "k", PASSPHRASE)
        publisher = ReleaseRepository.open(tmp_path / "s").publisher(tmp_path / "k", PASSPHRASE)
        old = ring.keys("root")
        fresh = (ring.generate("root"), ring.generate("root"))
        publisher.change_keys(KeyChange("root", fresh, threshold=2))
        for key in old:
            ring.forget("root", key.keyid)
        publisher.publish(nights[0], "stable")

        store = ReleaseRepository.open(tmp_path / "s").store()
        assert 2 == Metadata[Root].from_bytes(store.trusted_root()).signed.version
        assert 1 == len(store.releases())


class TestServing:
    def test_the_timestamp_is_signed_again_at_half_its_life(self, desk: Desk) -> None:
        first = _version(desk.store.metadata("timestamp.json"))
        desk.now += 3 * DAY_S
        same = _version(desk.store.metadata("timestamp.json"))
        desk.now += DAY_S
        renewed = _version(desk.store.metadata("timestamp.json"))

        assert (first, first + 1) == (same, renewed)

    def test_a_server_asked_after_a_year_still_gives_a_fresh_timestamp(self, desk: Desk) -> None:
        desk.now += 300 * DAY_S
        timestamp = json.loads(desk.store.metadata("timestamp.json"))["signed"]

        assert timestamp["expires"] > "2027"

    def test_a_publication_is_noticed_without_a_restart(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        before = _version(desk.store.metadata("timestamp.json"))
        desk.publisher.publish(nights[0], "stable")

        assert before < _version(desk.store.metadata("timestamp.json"))

    def test_another_server_process_goes_on_counting(self, desk: Desk, nights: list[Path]) -> None:
        desk.publisher.publish(nights[0], "stable")
        one = _version(desk.store.metadata("timestamp.json"))
        desk.publisher.publish(nights[1], "stable")
        other = _version(desk.repository.store().metadata("timestamp.json"))

        assert other == one + 1

    def test_it_says_when_each_signature_runs_out(self, desk: Desk) -> None:
        """Root and targets are renewed by people: somebody must be told in time."""
        found = {role: (at - NOW) / DAY_S for role, at in desk.store.expiries().items()}

        assert {"root": 365, "targets": 90, "snapshot": 14, "timestamp": 7} == found

    def test_targets_by_a_stranger_are_passed_over(
        self, desk: Desk, nights: list[Path], tmp_path: Path
    ) -> None:
        desk.publisher.publish(nights[0], "stable")
        stranger = ReleaseRepository.create(tmp_path / "x", tmp_path / "xk", PASSPHRASE)
        data = (stranger.directory / "metadata" / "1.targets.json").read_bytes()
        (desk.home / "server" / "metadata" / "9.targets.json").write_bytes(data)
        desk.store.refresh()

        assert [bundle_of(nights[0])] == [r.bundle for r in desk.store.releases()]

    @pytest.mark.parametrize("data", [b"", b"\x00 nothing", b'{"signed": {}}'])
    def test_what_is_no_metadata_is_passed_over(
        self, desk: Desk, nights: list[Path], data: bytes
    ) -> None:
        desk.publisher.publish(nights[0], "stable")
        (desk.home / "server" / "metadata" / "9.targets.json").write_bytes(data)

        assert [bundle_of(nights[0])] == [r.bundle for r in desk.store.releases()]

    def test_an_older_signature_under_a_newer_name_is_passed_over(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        """Else a thief of the disk has the publisher sign a withdrawn bundle anew."""
        desk.publisher.publish(nights[0], "stable")
        bad = desk.publisher.publish(nights[1], "stable")
        metadata = desk.home / "server" / "metadata"
        stale = (metadata / "3.targets.json").read_bytes()
        desk.publisher.rollback(TASK, "stable")
        (metadata / "9.targets.json").write_bytes(stale)
        newest = desk.publisher.publish(nights[2], "stable")

        assert 4 == newest.sequence
        assert bad.bundle not in {r.bundle for r in desk.store.releases()}

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "../online/keys.json",
            "1.targets.json/../x",
            "keys.json",
            "01.root.json",
            "9.root.json",
        ],
    )
    def test_nothing_but_metadata_is_served_as_metadata(self, desk: Desk, name: str) -> None:
        with pytest.raises(BundleError):
            desk.store.metadata(name)

    @pytest.mark.parametrize("digest", ["", "../online/keys.json", "AB" * 32, "ab" * 32])
    def test_nothing_but_blobs_is_served_as_blobs(self, desk: Desk, digest: str) -> None:
        with pytest.raises(BundleError):
            desk.store.open_blob(digest)

    def test_a_root_nobody_signed_is_no_root(self, desk: Desk) -> None:
        path = desk.home / "server" / "metadata" / "1.root.json"
        plain = json.loads(path.read_bytes())
        plain["signatures"] = []
        path.write_text(json.dumps(plain))
        with pytest.raises(SignatureError):
            desk.store.trusted_root()


class TestExplaining:
    def test_a_good_chain_is_told_from_the_root_to_the_last_byte(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        release = desk.publisher.publish(nights[0], "stable", note="after the gate")
        desk.store.refresh()
        words = desk.words(release.bundle)

        assert desk.believes(release.bundle)
        starts = (
            "Trust begins at root version 1", "Root version 1 holds", "The targets metadata",
            "It names the bundle", "The snapshot metadata", "The timestamp metadata",
            "The manifest", "Each of its", "By its manifest", "So the bundle",
        )  # fmt: skip
        assert all(word.startswith(start) for word, start in zip(words, starts, strict=True))
        assert "after the gate" in words[3]

    def test_changes_of_keys_are_counted_as_a_reader_would(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        release = desk.publisher.publish(nights[0], "stable")
        firsts = []
        for _ in range(3):
            desk.store.refresh()
            firsts.append(desk.words(release.bundle)[0])
            desk.publisher.renew(root=True)

        assert "the only one so far" in firsts[0]
        assert "one change of root metadata" in firsts[1]
        assert "a chain of 2 changes" in firsts[2]

    def test_what_the_manifest_says_of_its_origin_is_told_and_nothing_else(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        lineage = Lineage(
            recipe="intents 12ab", teacher="gpt", data={"train": "cd" * 32},
            software={"torch": "2.9"},
        )  # fmt: skip
        build_bundle(tmp_path / "b", parent="ef" * 32, lineage=lineage)
        release = desk.publisher.publish(tmp_path / "b", "stable")
        desk.store.refresh()

        assert (
            "By its manifest it grew from efefefefefef, was made by recipe intents 12ab, learned "
            "from the teacher gpt, on the data train cdcdcdcdcdcd, with torch 2.9."
        ) == desk.words(release.bundle)[-2]

    def test_the_first_letters_of_a_bundle_are_enough(self, desk: Desk, nights: list[Path]) -> None:
        release = desk.publisher.publish(nights[0], "stable")
        desk.store.refresh()

        assert desk.believes(release.bundle[:10])

    @pytest.mark.parametrize("bundle", ["", "ffff0000"])
    def test_an_unsigned_bundle_is_not_believed(
        self, desk: Desk, nights: list[Path], bundle: str
    ) -> None:
        desk.publisher.publish(nights[0], "stable")
        desk.store.refresh()

        assert not desk.believes(bundle)
        assert "no signature names" in desk.words(bundle)[-1].lower()

    def test_one_flipped_byte_breaks_the_chain_at_its_file(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        release = desk.publisher.publish(nights[0], "stable")
        desk.store.refresh()
        blob = desk.home / "server" / "blobs" / _digest(nights[0] / ENCODER)
        blob.chmod(0o644)
        data = bytearray(blob.read_bytes())
        data[50] ^= 1
        blob.write_bytes(data)

        assert not desk.believes(release.bundle)
        assert ENCODER in desk.words(release.bundle)[-1]

    def test_what_is_past_its_date_is_not_believed(self, desk: Desk, nights: list[Path]) -> None:
        release = desk.publisher.publish(nights[0], "stable")
        desk.store.refresh()
        desk.now += 100 * DAY_S

        assert not desk.believes(release.bundle)
        assert "only" in desk.words(release.bundle)[-1]

    def test_renewing_keeps_everything_installable(self, desk: Desk, nights: list[Path]) -> None:
        release = desk.publisher.publish(nights[0], "stable")
        desk.now += 80 * DAY_S
        desk.publisher.renew()
        desk.now += 20 * DAY_S
        desk.store.refresh()

        assert desk.believes(release.bundle)

    def test_a_server_that_has_not_signed_yet_is_told_apart_from_a_forgery(
        self, desk: Desk, nights: list[Path]
    ) -> None:
        release = desk.publisher.publish(nights[0], "stable")

        assert "yet to sign" in desk.words(release.bundle)[-1]
        assert "start the gateway" in desk.words(release.bundle)[-1]


def test_short_lives_are_kept_too(tmp_path: Path) -> None:
    settings = PublisherSettings(lifetimes=Lifetimes(timestamp=0.5, snapshot=1.0))
    clock = [NOW]
    repository = ReleaseRepository.create(
        tmp_path / "s", tmp_path / "k", PASSPHRASE, settings=settings, clock=lambda: clock[0]
    )
    store = repository.store()
    first = _version(store.metadata("timestamp.json"))
    clock[0] += 0.3 * DAY_S

    assert first < _version(store.metadata("timestamp.json"))


def _version(data: bytes) -> int:
    return int(json.loads(data)["signed"]["version"])


def _digest(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()
