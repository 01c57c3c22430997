"""`understudy release`: the life of the publisher's keys, and what a wrong word costs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from simulators.bundles import LABELS, TASK, build_bundle
from understudy.cli.main import run
from understudy.cloud.config import load_config
from understudy.cloud.parts import open_rollout_book
from understudy.cloud.releases import ReleaseRepository
from understudy.cloud.rollout_book import Phase

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cloud and a repository that offers two bundles; the passphrase is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", PASSPHRASE)
    (tmp_path / "cloud.yaml").write_text(
        f"state_dir: .\ntasks: {{{TASK}: {{labels: [{', '.join(LABELS)}]}}}}\n"
        "teacher: {engine: replay, recordings: answers.jsonl}\n"
    )
    assert 0 == run(["release", "init"])
    for night in range(2):
        build_bundle(tmp_path / f"night-{night}", seed=night)
        assert 0 == run(["release", "publish", f"night-{night}"])
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(["release", *words])
    heard = capsys.readouterr()
    return code, heard.out + heard.err


class TestRotate:
    @pytest.mark.parametrize("holder", ["root", "targets", "online"])
    def test_it_says_who_signs_now_and_who_no_longer(
        self, desk: Path, capsys: pytest.CaptureFixture[str], holder: str
    ) -> None:
        code, said = say(capsys, "rotate", holder)

        assert 0 == code
        assert f"for {holder}" in said
        assert "root version 2 names" in said
        assert "no longer trusted" in said
        assert (desk / "releases" / "metadata" / "2.root.json").is_file()

    @pytest.mark.usefixtures("desk")
    def test_with_new_targets_keys_it_lists_what_they_have_signed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """After a theft somebody must look whether all of it is their own."""
        _, said = say(capsys, "rotate", "targets")

        assert f"2 stable {TASK}" in said
        assert "release withdraw" in said

    def test_more_root_keys_and_a_threshold_can_be_asked_for(
        self, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, _ = say(capsys, "rotate", "root", "--count", "3", "--threshold", "2")

        assert 0 == code
        assert 3 == len(list((desk / "publisher-keys").glob("root-*.pem")))

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["rotate", "snapshots"], "'snapshots' holds no keys; name one of root"),
            (["rotate", "root", "--threshold", "2"], "2 keys must sign for root, but only 1"),
            (["rotate", "targets", "--count", "0"], "but only 0 are given"),
            (["rotate", "targets", "--uri", "command:true"], "needs both --uri"),
            (["rotate", "targets", "--public", "x.pub"], "needs both --uri"),
            (["rotate", "targets", "--uri", "a:b", "--public", "x.pub"], "x.pub cannot be read"),
            (["rotate", "targets", "--keys", "elsewhere"], "elsewhere holds no publisher's keys"),
            (["rotate", "targets", "--releases", "nowhere"], "nowhere is no release repository"),
            (["renew", "--keys", "elsewhere"], "elsewhere holds no publisher's keys"),
            (["reseal", "--keys", "elsewhere"], "elsewhere holds no publisher's keys"),
            (["reseal"], "set UNDERSTUDY_NEW_PASSPHRASE"),
            (["withdraw", "ffff"], "'ffff' names 0 bundles"),
            (["promote", ""], "'' names 2 bundles"),
            (["promote", "ffff"], "'ffff' names 0 bundles"),
            (["rollback", "--task", "other"], "name one of the tasks on offer with --task: suppo"),
            (["rollback", "--channel", "canary"], "the channel 'canary' has no earlier bundle"),
            (["pause", "-c", "cloud.yaml", "--channel", "canary"], "'canary' of 'support' has no"),
            (["pause", "-c", "cloud.yaml", "--task", "other"], "with --task: support"),
            (["pin", "shop-1", "ffff", "-c", "cloud.yaml"], "'ffff' names 0 bundles"),
        ],
    )
    def test_a_wrong_word_changes_nothing(
        self, desk: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
    ) -> None:
        before = _everything(desk)
        code, said = say(capsys, *words)

        assert 2 == code
        assert message in said
        assert "Traceback" not in said
        assert before == _everything(desk)

    def test_a_wrong_passphrase_changes_nothing(
        self, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", "wrong")
        metadata = _everything(desk / "releases")
        code, said = say(capsys, "rotate", "root")

        assert 2 == code
        assert "the passphrase does not open the key" in said
        assert metadata == _everything(desk / "releases")
        assert 1 == len(list((desk / "publisher-keys").glob("root-*.pem")))


def test_renew_signs_targets_and_on_request_the_root(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = desk / "releases" / "metadata"
    assert (0, "signed again: targets\n") == say(capsys, "renew")
    assert not (metadata / "2.root.json").exists()

    assert (0, "signed again: targets and root\n") == say(capsys, "renew", "--root")
    assert (metadata / "2.root.json").is_file()


@pytest.mark.usefixtures("desk")
def test_reseal_changes_the_passphrase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_NEW_PASSPHRASE", "battery staple")
    assert 0 == say(capsys, "reseal")[0]

    assert 2 == say(capsys, "renew")[0]
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", "battery staple")
    assert 0 == say(capsys, "renew")[0]


class TestOffers:
    """One task is on offer, so it need not be named."""

    def listed(self, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(say(capsys, "list", "--json")[1])
        return found

    @pytest.mark.usefixtures("desk")
    def test_withdraw_takes_a_bundle_off_the_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = self.listed(capsys)
        assert 0 == say(capsys, "withdraw", first["bundle"][:10])[0]

        assert [second] == self.listed(capsys)

    @pytest.mark.usefixtures("desk")
    def test_promote_offers_a_bundle_to_another_channel(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = self.listed(capsys)[0]["bundle"]
        code, said = say(capsys, "promote", bundle[:10], "--channel", "canary", "--note", "try it")

        assert (0, f"promoted: {bundle[:12]} on canary, release 3\n") == (code, said)
        newest = self.listed(capsys)[-1]
        assert ("canary", "promote", "try it") == (
            newest["channel"], newest["kind"], newest["note"],
        )  # fmt: skip

    @pytest.mark.usefixtures("desk")
    def test_rollback_goes_one_step_back_as_a_newer_release(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = self.listed(capsys)
        code, said = say(capsys, "rollback")

        assert (0, f"rolled back to: {first['bundle'][:12]} on stable, release 3\n") == (code, said)
        assert second["bundle"] not in {row["bundle"] for row in self.listed(capsys)}

    def test_verify_tells_the_chain_and_fails_where_it_breaks(
        self, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = self.listed(capsys)[1]["bundle"]
        waiting = say(capsys, "verify", bundle[:10])
        ReleaseRepository.open(desk / "releases").store().refresh()
        good = say(capsys, "verify", bundle[:10])

        assert 1 == waiting[0]
        assert "yet to sign" in waiting[1]
        assert 0 == good[0]
        assert f"So the bundle {bundle[:12]} is what the publisher signed" in good[1]

    def test_pause_resume_and_pin_reach_the_gateways_book(
        self, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle, cloud = self.listed(capsys)[1]["bundle"], ("-c", "cloud.yaml")
        assert (0, f"paused: {bundle[:12]} on stable\n") == say(capsys, "pause", *cloud)
        assert (0, f"resumed: {bundle[:12]} on stable\n") == say(capsys, "resume", *cloud)
        assert (0, "shop-1 is pinned\n") == say(capsys, "pin", "shop-1", bundle[:8], *cloud)
        with contextlib.closing(open_rollout_book(load_config(desk / "cloud.yaml"))) as book:
            assert bundle == book.pinned("shop-1", TASK)
            assert Phase.RUNNING is book.rollouts()[0].phase
        assert 0 == say(capsys, "pin", "shop-1", "--unpin", *cloud)[0]
        with contextlib.closing(open_rollout_book(load_config(desk / "cloud.yaml"))) as book:
            assert book.pinned("shop-1", TASK) is None


def test_an_empty_repository_says_what_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", PASSPHRASE)
    assert 0 == run(["release", "init"])

    code, said = say(capsys, "rollback")
    assert 2 == code
    assert "nothing is on offer yet" in said


def _everything(folder: Path) -> dict[str, bytes]:
    """Every file but the empty books that a command opens."""
    files = [p for p in folder.rglob("*") if p.is_file() and ".db" not in p.name]
    return {str(p): p.read_bytes() for p in files if p.name != ".lock"}
