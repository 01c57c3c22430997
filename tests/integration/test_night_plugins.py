"""Parts of other people's: a real package, installed by pip, found by its entry points."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.night_world import NOW, copied_world, seed_rows, tiny_recipe, traffic
from understudy.distill_loop.evidence import Outcome
from understudy.distill_loop.inputs import SourcesRecipe
from understudy.distill_loop.night import Sources
from understudy.distill_loop.plugins import find_plugin
from understudy.distill_loop.run import run_night
from understudy.edge.bundle import read_bundle
from understudy.types.errors import ConfigError

_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "their-parts"
version = "1.0"
[project.entry-points."understudy.student"]
theirs = "their_parts:student"
[project.entry-points."understudy.source"]
tickets = "their_parts:tickets"
[project.entry-points."understudy.op"]
politely = "their_parts:politely"
[project.entry-points."understudy.check"]
friday = "their_parts:not_on_fridays"
[tool.hatch.build.targets.wheel]
packages = ["their_parts"]
"""
_CODE = '''
"""Parts for nights, made by somebody else."""
from dataclasses import replace
from understudy.distill_loop.evidence import Check, Outcome
from understudy.distill_loop.rows import Example, Origin
from understudy.distill_loop.student import cut_student


def student(recipe, base, texts):
    return cut_student(replace(recipe, keep_layers=(0,)), base, texts)


def tickets(recipe):
    for number in range(6):
        yield Example(id=f"ticket-{number}", text=f"word{number} gizmo broken", label="gizmo",
                      origin=Origin.FILE, unbiased=True)


def politely(rows, recipe):
    return [row for row in rows if "hello" not in row.text]


def not_on_fridays(evidence, recipe):
    return Check("friday", Outcome.FAIL, 1.0, 0.0, "nothing ships on a Friday")
'''


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds their package and installs it as a user would, into a folder of this test."""
    source, site = tmp_path / "their-parts", tmp_path / "site"
    (source / "their_parts").mkdir(parents=True)
    (source / "pyproject.toml").write_text(_PROJECT, "utf-8")
    (source / "their_parts" / "__init__.py").write_text(_CODE, "utf-8")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "--target", str(site), str(source)],
        check=True,
        timeout=200,
    )
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("theirs")
def test_an_installed_package_brings_student_source_operation_and_check(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path / "world")
    plain = tiny_recipe()
    recipe = replace(
        plain,
        student=replace(plain.student, use="theirs"),
        distil=replace(plain.distil, warm_start=False),
        sources=SourcesRecipe(plugins=("tickets",)),
        data=replace(plain.data, ops=("politely",)),
        gate=replace(plain.gate, checks=("friday",)),
    )
    sources = Sources(
        log=traffic(200, 5), seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400.0
    )
    result = run_night(recipe, workspace, sources, name="n1")
    made = read_bundle(workspace.folder / "bundles" / result.challenger)
    whole = read_bundle(champion)

    assert "gizmo" in made.manifest.labels
    assert len(made.files["encoder.onnx"]) < len(whole.files["encoder.onnx"])
    assert "hello" not in (workspace.folder / "replay.jsonl").read_text("utf-8")
    assert [c.says for c in result.checks if c.outcome is Outcome.FAIL] == [
        "nothing ships on a Friday"
    ]
    assert (result.ruling, result.bundle) == ("keep", whole.id)
    # What a package calls unbiased certifies nothing: only our own audit coin does.
    rows = (workspace.night("n1") or {})["rows"]
    assert rows["certificate"] < rows["logged"]


@pytest.mark.usefixtures("theirs")
def test_a_part_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no source 'ticket'\. Did you mean 'tickets'\?"):
        find_plugin("source", "ticket")
