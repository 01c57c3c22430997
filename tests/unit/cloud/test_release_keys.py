"""Rules of changing keys: who must sign, what a cut leaves, and what never gets a new signature."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from simulators.bundles import TASK, build_bundle
from understudy.cloud.releases import (
    KeyHolder,
    OutsideKey,
    Publisher,
    ReleaseRepository,
    Rotation,
)
from understudy.cloud.releases.keys import FolderKeyRing
from understudy.cloud.releases.roles import RoleFiles
from understudy.cloud.releases.signers import read_public_key
from understudy.cloud.releases.signing import KeyChange
from understudy.types.errors import BundleError, ConfigError

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test
OTHER = "battery staple"
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    build_bundle(folder / "b")
    return folder / "b"


@dataclass
class Vault:
    """A repository whose three root keys must sign by two."""

    home: Path
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.repository = ReleaseRepository.create(
            self.server, self.keys, PASSPHRASE, root_keys=3, root_threshold=2,
            clock=lambda: self.now,
        )  # fmt: skip
        self.ring = FolderKeyRing(self.keys, PASSPHRASE)
        self.publisher: Publisher = self.repository.publisher(self.keys, PASSPHRASE)

    @property
    def server(self) -> Path:
        return self.home / "server"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    def rotate(self, holder: KeyHolder, **wish: int) -> int:
        rotation = Rotation(holder=holder, **wish)  # type: ignore[arg-type]  # ints only
        return self.repository.rotate(rotation, self.keys, PASSPHRASE).root_version

    def root(self, version: int) -> Metadata[Root]:
        return Metadata[Root].from_file(str(self.server / "metadata" / f"{version}.root.json"))

    def lend(self, count: int) -> None:
        """Takes so many root keys to another place."""
        for file in sorted(self.keys.glob("root-*.pem"))[:count]:
            shutil.move(file, self.home / file.name)

    def everything(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.home.rglob("*") if p.is_file()}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


class TestThresholds:
    def test_a_new_root_is_signed_by_enough_keys_before_and_after(self, vault: Vault) -> None:
        before = vault.root(1).signed
        assert 2 == vault.rotate(KeyHolder.ROOT, made=3, threshold=2)
        made = vault.root(2)

        before.verify_delegate("root", made.signed_bytes, made.signatures)
        made.signed.verify_delegate("root", made.signed_bytes, made.signatures)
        assert not set(before.roles["root"].keyids) & set(made.signed.roles["root"].keyids)
        assert 2 == made.signed.roles["root"].threshold

    def test_a_threshold_of_the_root_keys_is_enough(self, vault: Vault) -> None:
        """Three people hold one each; one of them is on holiday."""
        vault.lend(1)

        assert 2 == vault.rotate(KeyHolder.TARGETS)

    @pytest.mark.parametrize("holder", list(KeyHolder))
    def test_below_it_nothing_is_changed(
        self, vault: Vault, bundle: Path, holder: KeyHolder
    ) -> None:
        vault.publisher.publish(bundle, "stable")
        vault.lend(2)
        before = vault.everything()
        with pytest.raises(ConfigError, match="2 root keys must sign, but only 1 of them did"):
            vault.rotate(holder)

        assert _without_indent(before) == _without_indent(vault.everything())

    def test_the_new_keys_must_reach_their_own_threshold(self) -> None:
        with pytest.raises(ConfigError, match="3 keys must sign for root, but only 2"):
            Rotation(holder=KeyHolder.ROOT, made=2, threshold=3)

    @pytest.mark.parametrize("threshold", [0, -1, 2])
    def test_a_threshold_lies_between_one_and_the_keys(self, vault: Vault, threshold: int) -> None:
        with pytest.raises(ConfigError):
            KeyChange("targets", tuple(vault.ring.keys("targets")), threshold)

    def test_two_targets_keys_must_both_sign_when_two_must(
        self, vault: Vault, bundle: Path
    ) -> None:
        vault.rotate(KeyHolder.TARGETS, made=2, threshold=2)
        vault.publisher.publish(bundle, "stable")
        next(vault.keys.glob("targets-*.pem")).unlink()

        with pytest.raises(ConfigError, match="2 targets keys must sign"):
            vault.publisher.renew()
        assert 1 == len(vault.repository.store().releases())


class TestRotating:
    def test_releases_stay_on_offer_and_the_old_key_is_gone(
        self, vault: Vault, bundle: Path
    ) -> None:
        release = vault.publisher.publish(bundle, "stable")
        old = vault.ring.keys("targets")[0].keyid
        vault.rotate(KeyHolder.TARGETS)

        assert [release] == vault.repository.store().releases()
        assert [old] != [key.keyid for key in vault.ring.keys("targets")]
        assert 1 == len(list(vault.keys.glob("targets-*.pem")))

    def test_online_keys_change_and_the_server_goes_on_counting(self, vault: Vault) -> None:
        running = vault.repository.store()
        before = json.loads(running.metadata("timestamp.json"))
        vault.rotate(KeyHolder.ONLINE)
        after = json.loads(running.metadata("timestamp.json"))

        assert after["signed"]["version"] == before["signed"]["version"] + 1
        assert after["signatures"][0]["keyid"] != before["signatures"][0]["keyid"]
        for pem in (vault.server / "online").glob("*.pem"):
            assert 0o600 == stat.S_IMODE(pem.stat().st_mode)

    def test_a_cut_between_targets_and_root_leaves_a_whole_chain(
        self, vault: Vault, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Targets come first, by both keys: the old root believes them, and so would the new."""
        release = vault.publisher.publish(bundle, "stable")
        write = RoleFiles.write

        def dies_at_the_root(self: RoleFiles, role: str, metadata: Metadata[Targets]) -> None:
            if role == "root":
                raise OSError("no space left on device")
            write(self, role, metadata)

        monkeypatch.setattr(RoleFiles, "write", dies_at_the_root)
        with pytest.raises(OSError, match="no space"):
            vault.rotate(KeyHolder.TARGETS)
        monkeypatch.undo()

        assert [release] == vault.repository.store().releases()
        vault.publisher.publish(bundle, "canary")
        assert 2 == vault.rotate(KeyHolder.TARGETS)
        assert 2 == len(vault.repository.store().releases())

    def test_what_a_thief_left_on_the_disk_is_not_signed_again(
        self, vault: Vault, bundle: Path, tmp_path: Path
    ) -> None:
        """Whoever has the server's disk waits for a rotation to get a signature."""
        vault.publisher.publish(bundle, "stable")
        ReleaseRepository.create(tmp_path / "x", tmp_path / "xk", "theirs")
        theirs = ReleaseRepository.open(tmp_path / "x")
        evil = theirs.publisher(tmp_path / "xk", "theirs").publish(bundle, "evil")
        forged = theirs.directory / "metadata" / f"{evil.sequence + 1}.targets.json"
        shutil.copy(forged, vault.server / "metadata" / "9.targets.json")
        vault.rotate(KeyHolder.TARGETS)

        assert ["stable"] == [r.channel for r in vault.repository.store().releases()]

    def test_a_copy_that_was_restored_counts_on_from_what_was_signed_since(
        self, vault: Vault, bundle: Path
    ) -> None:
        shutil.copytree(vault.server, vault.home / "copy")
        vault.publisher.publish(bundle, "stable")
        vault.publisher.publish(bundle, "canary")
        shutil.rmtree(vault.server)
        shutil.copytree(vault.home / "copy", vault.server)
        vault.publisher.renew(restored=True)

        assert 3 == vault.publisher.publish(bundle, "stable").sequence
        assert (vault.server / "metadata" / "5.targets.json").is_file()

    @pytest.mark.parametrize("act", ["publish", "rotate"])
    def test_an_older_state_of_the_disk_is_not_signed_as_the_newest(
        self, vault: Vault, bundle: Path, act: str
    ) -> None:
        """A thief who removes the newest targets would have a withdrawn bundle signed anew."""
        bad = vault.publisher.publish(bundle, "stable")
        vault.publisher.withdraw(TASK, bad.bundle)
        newest = vault.server / "metadata" / "3.targets.json"
        shutil.move(newest, vault.home / newest.name)
        with pytest.raises(ConfigError, match="version 2, but these keys have signed version 3"):
            vault.rotate(KeyHolder.TARGETS) if act == "rotate" else vault.publisher.renew()

        shutil.move(vault.home / newest.name, newest)
        vault.publisher.renew()
        assert [] == vault.repository.store().releases()

    def test_a_false_root_on_the_disk_does_not_put_the_next_one_out_of_reach(
        self, vault: Vault
    ) -> None:
        """Nodes ask for version 2; a thief's version 5 must not make the true one version 6."""
        shutil.copy(
            vault.server / "metadata" / "1.root.json", vault.server / "metadata" / "5.root.json"
        )

        assert 2 == vault.rotate(KeyHolder.TARGETS)

    def test_renewing_the_root_moves_its_date_and_keeps_its_keys(self, vault: Vault) -> None:
        vault.now += 300 * DAY_S
        vault.publisher.renew(root=True)
        old, new = vault.root(1).signed, vault.root(2).signed

        assert 299 <= (new.expires - old.expires).days <= 300
        assert old.roles["root"].keyids == new.roles["root"].keyids

    def test_a_withdrawn_bundle_is_offered_by_no_channel(self, vault: Vault, bundle: Path) -> None:
        release = vault.publisher.publish(bundle, "canary")
        vault.publisher.promote(TASK, release.bundle, "stable")
        vault.publisher.withdraw(TASK, release.bundle)

        assert [] == vault.repository.store().releases()
        with pytest.raises(BundleError, match="no channel offers"):
            vault.publisher.withdraw(TASK, release.bundle)


class TestPassphrase:
    def test_after_resealing_only_the_new_one_opens(self, vault: Vault, bundle: Path) -> None:
        assert 4 == vault.ring.reseal(OTHER)

        vault.repository.publisher(vault.keys, OTHER).publish(bundle, "stable")
        with pytest.raises(ConfigError, match="does not open"):
            vault.publisher.publish(bundle, "stable")
        assert 4 == len(list(vault.keys.glob("*.pem")))

    def test_a_wrong_one_changes_nothing(self, vault: Vault) -> None:
        before = vault.everything()
        with pytest.raises(ConfigError, match="does not open"):
            FolderKeyRing(vault.keys, "wrong").reseal(OTHER)

        assert before == vault.everything()

    def test_an_empty_one_is_refused(self, vault: Vault) -> None:
        with pytest.raises(ConfigError, match="empty"):
            vault.ring.reseal("")


class TestServerKeys:
    def test_without_its_keys_the_server_touches_nothing_that_is_signed(self, vault: Vault) -> None:
        """A copy without the online folder must not replace a good timestamp by an unsigned one."""
        shutil.rmtree(vault.server / "online")
        before = (vault.server / "metadata" / "timestamp.json").read_bytes()
        vault.now += 5 * DAY_S
        with pytest.raises(ConfigError, match="rotate online"):
            vault.repository.store().refresh()

        assert before == (vault.server / "metadata" / "timestamp.json").read_bytes()

    def test_without_them_it_serves_what_still_stands_and_says_so(
        self, vault: Vault, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.rmtree(vault.server / "online")
        vault.now += 5 * DAY_S
        served = vault.repository.store().metadata("timestamp.json")

        assert (vault.server / "metadata" / "timestamp.json").read_bytes() == served
        assert "rotate online" in caplog.text


class TestSigningPrograms:
    """`command:` hands the bytes to any program: the stand-in for a key service is OpenSSL."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Path:
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "held.pem"],
            check=True,
        )
        subprocess.run(
            ["openssl", "pkey", "-in", tmp_path / "held.pem", "-pubout", "-out",
             tmp_path / "held.pub"],
            check=True,
        )  # fmt: skip
        return tmp_path

    def test_a_release_is_signed_by_a_program_that_holds_the_key(
        self, vault: Vault, bundle: Path, service: Path
    ) -> None:
        self.move_to(vault, _openssl(service / "held.pem"), service)
        vault.publisher.publish(bundle, "stable")

        assert [] == list(vault.keys.glob("targets-*.pem"))
        assert 1 == len(vault.repository.store().releases())

    @pytest.mark.parametrize(
        ("kind", "sign"),
        [
            (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], ""),
            (
                ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                " -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
            ),
        ],
        ids=["ecdsa", "rsa-pss"],
    )
    def test_keys_of_the_kinds_that_services_have_will_do(
        self, vault: Vault, bundle: Path, tmp_path: Path, kind: list[str], sign: str
    ) -> None:
        key, public = tmp_path / "held.pem", tmp_path / "held.pub"
        subprocess.run(["openssl", "genpkey", *kind, "-out", key], check=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
        self.move_to(vault, f"openssl dgst -sha256{sign} -sign {key}", tmp_path)

        assert 1 == vault.publisher.publish(bundle, "stable").sequence

    def test_a_key_that_is_there_already_is_not_rotated_to_itself(
        self, vault: Vault, bundle: Path, service: Path
    ) -> None:
        """To stay and to go, it would be forgotten while the root trusts it."""
        self.move_to(vault, _openssl(service / "held.pem"), service)
        with pytest.raises(ConfigError, match="signs for targets already; name another"):
            self.move_to(vault, _openssl(service / "held.pem"), service)

        assert 1 == vault.publisher.publish(bundle, "stable").sequence

    def test_a_program_is_found_beside_the_list_of_keys(
        self, vault: Vault, bundle: Path, service: Path
    ) -> None:
        script = vault.keys / "sign"
        script.write_text(f"#!/bin/sh\nexec {_openssl(service / 'held.pem')}\n")
        script.chmod(0o700)
        self.move_to(vault, "./sign", service)

        assert 1 == vault.publisher.publish(bundle, "stable").sequence

    @pytest.mark.parametrize(
        ("program", "says"),
        [
            ("sh -c 'echo no such key >&2; exit 3'", "no such key"),
            ("true", "no word"),
            ("/nowhere/sign", "did not answer"),
            ("echo I sign nothing", "0 of them did"),
            ("", "name a program"),
        ],
        ids=["fails", "says-nothing", "is-missing", "is-no-signature", "is-not-named"],
    )
    def test_a_program_that_does_not_sign_changes_nothing(
        self, vault: Vault, service: Path, program: str, says: str
    ) -> None:
        before = vault.everything()
        with pytest.raises(ConfigError, match=says):
            self.move_to(vault, program, service)

        assert _without_indent(before) == _without_indent(vault.everything())

    def test_a_key_of_another_kind_than_a_pem_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.pub").write_text("ssh-ed25519 AAAA")

        with pytest.raises(ConfigError, match="no public key in PEM"):
            read_public_key(tmp_path / "x.pub")
        with pytest.raises(ConfigError, match="cannot be read"):
            read_public_key(tmp_path / "absent.pub")

    def test_an_address_nobody_knows_is_a_sentence(self, vault: Vault) -> None:
        public = vault.ring.keys("targets")[0]
        vault.ring.add("targets", "pigeon:loft-7", public)

        with pytest.raises(ConfigError, match="pigeon:loft-7 cannot be used"):
            vault.ring.signers("targets")

    def move_to(self, vault: Vault, program: str, service: Path) -> None:
        held = OutsideKey(uri=f"command:{program}", public=read_public_key(service / "held.pub"))
        vault.repository.rotate(
            Rotation(holder=KeyHolder.TARGETS, made=0, outside=(held,)), vault.keys, PASSPHRASE
        )


def _openssl(key: Path) -> str:
    return f"sh -c 'T=$(mktemp); cat >$T; openssl pkeyutl -sign -rawin -inkey {key} -in $T; rm $T'"


def _without_indent(files: dict[str, bytes]) -> dict[str, object]:
    return {
        name: json.loads(data) if name.endswith("keys.json") else data
        for name, data in files.items()
    }
