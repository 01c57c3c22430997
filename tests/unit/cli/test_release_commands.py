"""`understudy release`: the life of the publisher's keys, and what a wrong word costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators.bundles import TASK, build_bundle
from understudy.cli.main import run

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a repository that offers one bundle; the passphrase is in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", PASSPHRASE)
    build_bundle(tmp_path / "night")
    assert 0 == run(["release", "init"])
    assert 0 == run(["release", "publish", "night"])
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

        assert f"1 stable {TASK}" in said
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


def test_reseal_changes_the_passphrase(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_NEW_PASSPHRASE", "battery staple")
    assert 0 == say(capsys, "reseal")[0]

    assert 2 == say(capsys, "renew")[0]
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", "battery staple")
    assert 0 == say(capsys, "renew")[0]
    assert desk.is_dir()


def test_withdraw_takes_a_bundle_off_the_list(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, listed = say(capsys, "list", "--json")
    bundle = listed.split('"bundle": "')[1][:10]
    assert 0 == say(capsys, "withdraw", bundle, "--task", TASK)[0]

    assert bundle not in say(capsys, "list", "--json")[1]
    assert desk.is_dir()


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
