"""A second graph for certain CPUs: proved on one, shipped if truer, renewed with the head."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulators.night_world import NOW, day_zero, seed_rows, tiny_recipe, traffic, utterances
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.run import run_night
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student

PARTS = {f"{name}.vnni.{end}" for name, end in (
    ("encoder", "onnx"), ("golden", "json"), ("calibration", "json"), ("certificate", "json"),
)}  # fmt: skip


@pytest.fixture(autouse=True)
def a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.distill_loop.variants.cpu_flags", lambda: {"avx512_vnni"})


def _recipe(*variants: str) -> Recipe:
    recipe = tiny_recipe()
    return replace(recipe, compress=replace(recipe.compress, variants=variants))


def _workspace(folder: Path) -> Workspace:
    """Day 0's stages, so that the graph need not be exported again."""
    shutil.copytree(day_zero()[0] / "stages", folder / "stages")
    return Workspace(folder)


@pytest.mark.slow
def test_a_truer_graph_ships_beside_the_portable_one_and_is_renewed_with_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny encoder's error is that of its word table, which has 8 bits in either graph.
    monkeypatch.setattr("understudy.distill_loop.variants.TRUER", 2.0)
    workspace = _workspace(tmp_path)
    first = run_night(
        _recipe("vnni"), workspace, Sources(seed=seed_rows(), now_unix_s=NOW), name="day-0"
    )
    bundle = read_bundle(first.directory)
    log = traffic(200, 5)
    refreshed = refresh_head(
        _recipe("vnni"),
        workspace,
        Sources(seed=seed_rows(), log=log, champion=first.directory, now_unix_s=NOW + 2 * 86_400),
    )
    made = read_bundle(next(p for p in (tmp_path / "bundles").iterdir() if p.name != first.bundle))

    assert set(bundle.manifest.files) >= PARTS
    assert bundle.variants == ("vnni",)
    assert bundle.files["encoder.vnni.onnx"] != bundle.files["encoder.onnx"]
    # A refresh makes a new head: the variant's graph stays, its calibration does not.
    assert made.files["encoder.vnni.onnx"] == bundle.files["encoder.vnni.onnx"]
    assert made.files["calibration.vnni.json"] != bundle.files["calibration.vnni.json"]
    assert refreshed.shipped_bytes < 300_000
    # Both variants answer as their own golden vectors say, wherever this test runs.
    texts = [text for text, _ in utterances(20, 9)]
    portable = Student.load(made.without_variants())
    portable.check_golden()
    full = Student.load(made.for_cpu({"avx512_vnni"}).without_variants())
    assert np.abs(full.run(texts).logits - portable.run(texts).logits).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "why"), [("dotprod", "no such CPU"), ("vnni", "not truer")])
def test_a_variant_that_cannot_be_proved_or_is_not_truer_is_left_out_and_says_so(
    variant: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.distill_loop.variants.TRUER", 0.0)
    sources = Sources(seed=seed_rows(), now_unix_s=NOW)
    result = run_night(_recipe(variant), _workspace(tmp_path), sources, name="day-0")

    assert read_bundle(result.directory).variants == ()
    assert why in result.figures["variants"][variant]
