"""A cloud of several tasks: each has numbers, nights and escalations of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from simulators.cloud_gateway import (
    LABELS,
    TASK,
    Cloud,
    config,
    record,
    running_cloud,
    wait_until,
)
from understudy.cli.nightly import places_beside
from understudy.cloud.config import OperatorConfig, TaskConfig, load_config
from understudy.types.convert import record_to_wire
from understudy.types.decision import RecordKind
from understudy.types.errors import ConfigError
from understudy.types.records import EscalationRecord
from understudy.wire.v1 import feedback_pb2, feedback_pb2_grpc, inference_pb2, inference_pb2_grpc

OTHER = "orders"


def ask(cloud: Cloud, asked: EscalationRecord) -> None:
    with cloud.badge().channel(cloud.address) as channel:
        message = inference_pb2.PredictRequest(record=record_to_wire(asked))
        inference_pb2_grpc.InferenceServiceStub(channel).Predict(message, timeout=10)


def report(cloud: Cloud, asked: EscalationRecord) -> None:
    with cloud.badge().channel(cloud.address) as channel:
        message = feedback_pb2.ReportEscalationsRequest(records=[record_to_wire(asked)])
        feedback_pb2_grpc.FeedbackServiceStub(channel).ReportEscalations(message, timeout=10)


def test_the_console_of_a_task_tells_of_that_task(tmp_path: Path) -> None:
    """An audit that is labelled afterwards is a teacher's call too."""
    task = TaskConfig(labels=LABELS)
    settings = config(
        tmp_path, tasks={TASK: task, OTHER: task}, operator=OperatorConfig(address="127.0.0.1:0")
    )
    nights = settings.path_of(OTHER, "nights") / "nights"
    nights.mkdir(parents=True)
    (nights / "2026-11-25.json").write_text('{"ruling": "promote", "certified": true}')
    page = settings.path_of(OTHER, "reports") / "2026-11-25.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>the night of the orders</h1>")
    with running_cloud(settings) as cloud:
        assert cloud.gateway.running is not None
        base = f"http://{cloud.gateway.running.operator_address}"

        def state(name: str) -> dict[str, Any]:
            found: dict[str, Any] = httpx.get(f"{base}/api/state", params={"task": name}).json()
            return found

        ask(cloud, record(text="of the first"))
        for _ in range(2):
            ask(cloud, record(text="of the other", task=OTHER))
        report(cloud, record(task=OTHER, kind=RecordKind.AUDIT, coin=True, propensity=0.02))
        wait_until(lambda: state(OTHER)["traffic"]["teacher_calls"] == 3)
        first, other = state(TASK), state(OTHER)
        (night,) = other["nights"]
        shown = httpx.get(f"{base}/reports/{night['report']}")

    assert [TASK, OTHER] == first["tasks"] == other["tasks"]
    assert (TASK, OTHER) == (first["task"], other["task"])
    assert 1 == first["traffic"]["teacher_calls"]
    assert {"of the first"} == {row["text"] for row in first["escalations"]}
    assert 3 == len(other["escalations"])
    assert ([], "promote") == (first["nights"], night["verdict"])
    assert "the night of the orders" in shown.text


def write_cloud(folder: Path, *tasks: str) -> Path:
    lines = [f"  {name}: {{labels: [a, b]}}" for name in tasks]
    file = folder / "cloud.yaml"
    file.write_text("\n".join(["state_dir: state", "tasks:", *lines, ""]))
    for name in tasks:
        (folder / f"{name}.yaml").write_text(f"task: {name}\n")
    return file


def test_nights_of_two_tasks_have_folders_of_their_own(tmp_path: Path) -> None:
    """Both have a night of today."""
    cloud = write_cloud(tmp_path, TASK, OTHER)

    folders = {
        name: places_beside(str(tmp_path / f"{name}.yaml"), cloud=cloud, workspace=None).workspace
        for name in (TASK, OTHER)
    }

    assert folders == {name: tmp_path / "state" / "nights" / name for name in (TASK, OTHER)}


def test_one_task_keeps_its_nights_where_they_were(tmp_path: Path) -> None:
    cloud = write_cloud(tmp_path, TASK)

    places = places_beside(str(tmp_path / f"{TASK}.yaml"), cloud=cloud, workspace=None)

    assert tmp_path / "state" / "nights" == places.workspace


def test_a_second_task_does_not_lose_the_nights_of_the_first(tmp_path: Path) -> None:
    """What they learned is in that folder; somebody must say whose it is."""
    cloud = write_cloud(tmp_path, TASK, OTHER)
    (tmp_path / "state" / "nights" / "nights").mkdir(parents=True)

    with pytest.raises(ConfigError, match=r"move what is in it to .*/nights/TASK"):
        places_beside(str(tmp_path / f"{OTHER}.yaml"), cloud=cloud, workspace=None)


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b"])
def test_a_task_must_be_able_to_have_a_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(f"tasks: {{'{name}': {{labels: [a, b]}}}}\n")

    with pytest.raises(ConfigError, match="a task cannot be named"):
        load_config(file)
