"""Teachers that a simulation can name beside recordings: a saved model, a head, a real gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators.cloud_gateway import LABELS, TASK, Badge, Cloud, config, running_cloud
from simulators.models import tiny_bert_classifier, tiny_encoder
from simulators.night_world import tiny_base
from understudy.cli.main import run
from understudy.cloud.teacher import fit_linear_teacher
from understudy.edge.identity import CA, CERTIFICATE, KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ("where is my refund", "i lost my card", "a new address for my account")
RECIPE = f"""
name: tiny
task: {TASK}
student: {{base: {{base}}, keep_layers: [0, 1], vocabulary: 400, max_tokens: 24}}
distil: {{epochs: 0, threads: 1}}
data: {{max_drop: 0.0}}
gate: {{require_gain: false, latency_ratio: 100}}
"""


def rows(each: int, *, labelled: bool) -> str:
    known = tuple(zip(TEXTS, LABELS, strict=True))
    pairs = [(f"{text} {n}", label) for n in range(each) for text, label in known]
    said = [{"text": t} | ({"label": label} if labelled else {}) for t, label in pairs]
    return "".join(json.dumps(row) + "\n" for row in said)


def simulate(folder: Path, *words: str, recipe: str = RECIPE) -> int:
    (folder / "seed.jsonl").write_text(rows(8, labelled=True))
    (folder / "stream.jsonl").write_text(rows(6, labelled=False))
    (folder / "tiny.yaml").write_text(recipe.replace("{base}", str(tiny_base())))
    return run([
        "simulate", "--seed", str(folder / "seed.jsonl"), "--stream", str(folder / "stream.jsonl"),
        "--out", str(folder / "out"), "--recipe", str(folder / "tiny.yaml"), "--days", "1",
        "--refresh-every", "0", *words,
    ])  # fmt: skip


def first_day(folder: Path) -> dict[str, Any]:
    day: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text("utf-8"))["days"][0]
    return day


def test_a_classifier_saved_by_transformers_teaches(tmp_path: Path) -> None:
    model = tiny_bert_classifier(tmp_path / "model", LABELS)

    assert 0 == simulate(tmp_path, "--teacher", f"transformers:{model}")

    day = first_day(tmp_path)
    assert (1.0, 0.0) == (day["escalation_rate"], day["degraded_rate"])
    assert 1.0 == day["agreement"]


def test_a_folder_with_a_head_is_asked_with_the_encoder_it_was_fitted_on(tmp_path: Path) -> None:
    """Another encoder has vectors of another length."""
    encoder = tiny_encoder(tmp_path / "encoder")
    head = fit_linear_teacher(TEXTS, LABELS, encoder, tmp_path / "head")

    assert 0 == simulate(tmp_path, "--teacher", f"transformers:{head}")

    day = first_day(tmp_path)
    assert (1.0, 0.0) == (day["escalation_rate"], day["degraded_rate"])


def test_a_model_that_lost_the_names_of_its_labels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_bert_classifier(tmp_path / "model", ("LABEL_0", "LABEL_1", "LABEL_2"))

    assert 2 == simulate(tmp_path, "--teacher", f"transformers:{model}")

    said = capsys.readouterr().err
    assert "LABEL_0, LABEL_1, LABEL_2" in said
    assert "`id2label`" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with running_cloud(config(tmp_path / "cloud")) as running:
        running.teacher.answer = lambda text: LABELS[TEXTS.index(text.rpartition(" ")[0])]
        yield running


def node_folder(badge: Badge, folder: Path) -> Path:
    """What `understudy node enroll` leaves."""
    folder.mkdir()
    parts = {CA: badge.ca, CERTIFICATE: badge.certificate, KEY: badge.key}
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_gateway_teaches_an_enrolled_node(tmp_path: Path, cloud: Cloud) -> None:
    node = node_folder(cloud.badge(), tmp_path / "node")

    code = simulate(tmp_path, "--teacher", f"gateway:{cloud.address}", "--node", str(node))

    assert 0 == code
    day = first_day(tmp_path)
    assert (1.0, 0.0) == (day["escalation_rate"], day["degraded_rate"])
    assert 18 == cloud.teacher.asked


@pytest.mark.parametrize(
    ("enrolled", "recipe", "message"),
    [
        pytest.param(False, RECIPE, "--node", id="no-certificate"),
        pytest.param(True, RECIPE.replace(f"task: {TASK}", "task: sport"), "sport", id="task"),
    ],
)
def test_a_gateway_that_would_refuse_every_request_ends_the_simulation_at_once(
    tmp_path: Path,
    cloud: Cloud,
    capsys: pytest.CaptureFixture[str],
    enrolled: bool,
    recipe: str,
    message: str,
) -> None:
    node = node_folder(cloud.badge(), tmp_path / "node")
    words = ("--node", str(node)) if enrolled else ()

    code = simulate(tmp_path, "--teacher", f"gateway:{cloud.address}", *words, recipe=recipe)

    assert 2 == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_nodes_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = simulate(tmp_path, "--teacher", "gateway:127.0.0.1:9", "--node", str(tmp_path))

    assert 2 == code
    assert "understudy node enroll" in capsys.readouterr().err
