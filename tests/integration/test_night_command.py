"""`understudy distill` over a real log and real releases: run, repeat, refresh, due, report."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulators.artifact_server import Shelf, served
from simulators.night_world import (
    INTENTS,
    NOW,
    teacher_label,
    tiny_recipe,
    traffic,
    utterances,
)
from understudy.cli.main import run
from understudy.cloud.log import NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.releases import ReleaseRepository
from understudy.distill_loop.workspace import Workspace
from understudy.edge import EdgeClient
from understudy.edge.bundle import read_bundle
from understudy.edge.config import EdgeConfig, GatewayConfig, UpdaterConfig
from understudy.types.records import LoggedRow
from understudy.types.release import Directive

SECRET = "a long enough passphrase"  # noqa: S105 - of a test
DAY = 86_400.0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.value if hasattr(value, "value") else value


def _lines(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), "utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A night's folder as a person keeps it: recipe, cloud, seed, keys, and the files it names."""
    monkeypatch.setenv("UNDERSTUDY_PASSPHRASE", SECRET)
    for name in ("UNDERSTUDY_CLOUD", "UNDERSTUDY_WORKSPACE", "UNDERSTUDY_KEYS", "UNDERSTUDY_SEED"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cloud.yaml").write_text(
        yaml.safe_dump({"state_dir": str(tmp_path / "cloud"), "tasks": {"classify": {}}}), "utf-8"
    )
    _lines(tmp_path / "seed.jsonl", utterances(4 * len(INTENTS), 1))
    releases = tmp_path / "cloud" / "releases"
    ReleaseRepository.create(releases, tmp_path / "publisher-keys", SECRET)
    _recipe(tmp_path)
    return tmp_path


def _recipe(folder: Path, **sections: dict[str, Any]) -> None:
    plain = _plain(asdict(tiny_recipe()))
    plain["contract"] = {
        f.name: plain["contract"][f.name]
        for f in dataclasses.fields(tiny_recipe().contract)
        if f.name in ("max_quality_loss", "confidence")
    }
    for name, keys in sections.items():
        plain[name] = {**plain[name], **keys}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain), "utf-8")


def _log(folder: Path, rows: list[LoggedRow], *, ago_s: float = 60.0) -> None:
    log = SqliteLog(folder / "cloud" / "log.db", now=lambda: time.time() - ago_s)
    at = time.time() - ago_s
    log.append([NewRow(replace(r.record, created_unix_s=at), r.teacher) for r in rows])
    log.close()


def _said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    got = run(["distill", *words])
    out, err = capsys.readouterr()
    assert got == code, err
    said: dict[str, Any] = json.loads(out)
    return said


def _listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["distill", *words]) == 0
    said: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return said


def _current(folder: Path) -> str:
    store = ReleaseRepository.open(folder / "cloud" / "releases").store()
    found = store.current("classify", "stable")
    assert found is not None
    return found.bundle


def test_a_night_runs_ships_and_is_not_run_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(folder / "recipe.yaml")
    first = _said(capsys, "run", "-c", recipe, "--json")
    assert (first["name"], _current(folder)) == ("day-0", first["bundle"])

    _log(folder, traffic(300, 5))
    night = _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")
    again = _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")

    assert night["verdict"] == "promote", night["reason"]
    assert (_current(folder), again) == (night["bundle"], night)
    assert (folder / "cloud" / "reports" / "d1.html").stat().st_size > 10_000


def test_a_repeated_night_does_not_undo_a_rollback(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A timer fires twice; in between an operator went one step back.
    recipe = str(folder / "recipe.yaml")
    first = _said(capsys, "run", "-c", recipe, "--json")
    _log(folder, traffic(300, 5))
    _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")
    repository = ReleaseRepository.open(folder / "cloud" / "releases")
    repository.publisher(folder / "publisher-keys", SECRET).rollback("classify", "stable")
    assert _current(folder) == first["bundle"]
    _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")

    assert _current(folder) == first["bundle"]


def test_a_night_that_was_not_to_ship_ships_when_it_is_run_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Look at the report first, then let it go: nothing is computed a second time.
    recipe = str(folder / "recipe.yaml")
    first = _said(capsys, "run", "-c", recipe, "--json")
    _log(folder, traffic(300, 5))
    dry = _said(capsys, "run", "-c", recipe, "--date", "d1", "--no-ship", "--json")
    assert _current(folder) == first["bundle"]
    wet = _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")

    assert (wet, _current(folder)) == (dry, dry["bundle"])


def test_what_is_due_is_done_and_nothing_is_due_afterwards(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _recipe(folder, schedule={"refresh_labels": 100, "min_new_labels": 1000})
    recipe = str(folder / "recipe.yaml")
    _said(capsys, "run", "-c", recipe, "--json")
    assert _said(capsys, "due", "-c", recipe, "--json")["due"] == "nothing"

    # The first student's hour must lie behind these answers.
    Workspace(folder / "cloud" / "nights").mark("night", NOW - 400 * DAY)
    _log(folder, traffic(300, 5))
    assert _said(capsys, "due", "-c", recipe, "--json")["due"] == "night"
    night = _said(capsys, "run", "--if-due", "-c", recipe, "--json")
    assert night["verdict"] == "promote"
    assert _said(capsys, "run", "--if-due", "-c", recipe, "--json")["due"] == "nothing"

    _log(folder, traffic(150, 6, day=2), ago_s=0.0)
    call = _said(capsys, "due", "-c", recipe, "--json")
    assert (call["due"], call["why"]) == ("refresh", "150 new labels")
    refreshed = _said(capsys, "run", "--if-due", "-c", recipe, "--json")
    assert refreshed["shipped_bytes"] <= 200_000
    assert _said(capsys, "due", "-c", recipe, "--json")["due"] == "nothing"


def test_files_that_a_recipe_names_teach_and_judge(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _lines(folder / "more.jsonl", [(f"open the vault {i}", "vault") for i in range(8)])
    _lines(folder / "gold.jsonl", utterances(40, 31))
    _lines(folder / "pinned.jsonl", utterances(8, 1))
    _lines(folder / "strange.jsonl", [(f"word{i} word{i + 1}", "") for i in range(20)])
    names = {"files": ["more.jsonl"], "gold": "gold.jsonl"}
    _recipe(folder, sources=names | {"pinned": "pinned.jsonl", "foreign": "strange.jsonl"})
    recipe = str(folder / "recipe.yaml")
    first = _said(capsys, "run", "-c", recipe, "--json")
    _log(folder, traffic(300, 5))
    _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")
    workspace = Workspace(folder / "cloud" / "nights")
    said = {c["name"]: c["says"] for c in (workspace.night("d1") or {})["checks"]}

    labels = read_bundle(workspace.folder / "bundles" / first["bundle"]).manifest.labels
    assert "vault" in labels
    assert "labelled by a person accuracy" in said["gold"]
    assert "pinned rows break" in said["pinned"]
    assert "foreign rows are told apart" in said["foreign"]


def test_a_class_nobody_knew_is_answered_on_the_edge_after_one_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Clusters of unknown requests, a person's word, a refreshed head, a node that fetches it.
    _recipe(folder, data={"new_class_rows": 0})
    recipe = str(folder / "recipe.yaml")
    first = _said(capsys, "run", "-c", recipe, "--json")
    strange = [
        replace(row, teacher=teacher_label("none_of_these"))
        for row in traffic(40, 8, intents=("exchange",), coin=0.0)
    ]
    kiosk = [
        replace(
            r, record=replace(r.record, event_id=f"k{i}", text=f"word1 word2 word3 word{i % 9}")
        )
        for i, r in enumerate(strange)
    ]
    _log(folder, [*traffic(200, 5), *kiosk])
    night = _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")
    (found,) = _listed(capsys, "proposals", "-c", recipe, "--json")
    assert (found["rows"], night["rows"]["proposals"]) == (40, 1)
    assert found["examples"].startswith("word1 word2 word3")

    assert run(["distill", "approve", found["proposal"], "kiosk_frozen", "-c", recipe]) == 0
    assert "kiosk_frozen begins with 40 rows" in capsys.readouterr().out
    refreshed = _said(capsys, "refresh", "-c", recipe, "--json")
    assert refreshed["verdict"] == "promote", refreshed["reason"]
    assert refreshed["new_labels"] == ["kiosk_frozen"]
    assert 0 < refreshed["shipped_bytes"] <= 200_000

    store = ReleaseRepository.open(folder / "cloud" / "releases").store()
    release = store.current("classify", "stable")
    assert release is not None
    assert release.bundle == refreshed["bundle"] != first["bundle"]
    (folder / "root.json").write_bytes(store.trusted_root())
    order = Directive(bundle=release.bundle, target=release.target, next_check_in_s=3600.0)
    with served(Shelf(store, on_check_in=lambda _: order)) as address:
        node = EdgeConfig(
            task="classify",
            state_dir=str(folder / "node"),
            gateway=GatewayConfig(address=address),
            updater=UpdaterConfig(trusted_root=str(folder / "root.json")),
        )
        with EdgeClient.open(node) as client:
            assert client.predict("word1 word2 word3 word4").label == "kiosk_frozen"
            assert client.predict("please refund my purchase today").label in INTENTS


def test_a_gold_row_without_label_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _lines(folder / "gold.jsonl", [("where is it", "card_lost"), ("what now", "")])
    _recipe(folder, sources={"gold": "gold.jsonl"})
    code = run(["distill", "run", "-c", str(folder / "recipe.yaml")])

    assert code == 2
    assert "gold.jsonl: row 2 has no `label`" in capsys.readouterr().err


def test_the_teacher_is_asked_within_the_recipe_s_budget(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Spooled rows have no label; the night pays for some, once, from the cloud's own teacher.
    blind = [replace(row, teacher=None) for row in traffic(60, 7, coin=0.2)]
    answers = folder / "answers.jsonl"
    answers.write_text(
        "".join(
            json.dumps({"text": t, "teacher_label": y}) + "\n"
            for t, y in {**dict(utterances(60, 7))}.items()
        ),
        "utf-8",
    )
    cloud = yaml.safe_load((folder / "cloud.yaml").read_text("utf-8"))
    cloud["teacher"] = {"engine": "replay", "recordings": str(answers)}
    (folder / "cloud.yaml").write_text(yaml.safe_dump(cloud), "utf-8")
    _recipe(folder, data={"teacher_budget": 25})
    recipe = str(folder / "recipe.yaml")
    _said(capsys, "run", "-c", recipe, "--json")
    _log(folder, [*traffic(200, 5), *blind])
    planned = _said(capsys, "plan", "-c", recipe, "--json")
    night = _said(capsys, "run", "-c", recipe, "--date", "d1", "--json")

    assert planned["teacher_calls"] == night["teacher_calls"] == 25


def test_an_impossible_name_or_place_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(folder / "recipe.yaml")
    assert run(["distill", "run", "-c", recipe]) == 0
    assert run(["distill", "run", "-c", recipe, "--date", "../d1"]) == 2
    assert "cannot be named '../d1'" in capsys.readouterr().err
    assert run(["distill", "run", "-c", recipe, "--where", "moon"]) == 2
    assert "known are: local, ray-train" in capsys.readouterr().err
