"""Where a night runs: the training function on Ray Train's workers, a whole night as a Ray job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from simulators.night_world import INTENTS, tiny_base, tiny_recipe, utterances
from understudy.cli.main import run
from understudy.cli.ray_job import plan_job
from understudy.distill_loop.base import find_base
from understudy.distill_loop.distil import Lesson, distil
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.inputs import Where, WhereRecipe
from understudy.distill_loop.ray_train import distil_on_ray
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.student import StudentModel, cut_student, encode, whole_base
from understudy.edge.bundle import Head
from understudy.types.errors import ConfigError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # Ray's own code trips over its own deprecations.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
pytest.importorskip("ray.train", reason="install understudy[train]")


def _recipe() -> Recipe:
    plain = tiny_recipe()
    return replace(
        plain,
        distil=replace(plain.distil, epochs=6, batch=16, body_rate=1e-3),
        student=replace(plain.student, keep_layers=(0,), vocabulary=0),
        objective=replace(plain.objective, rkd=0.0),
        where=WhereRecipe(use=Where.RAY_TRAIN, workers=2),
    )


def _lesson() -> tuple[StudentModel, Lesson, Head]:
    base = find_base(str(tiny_base()))
    rows = utterances(96, 4)
    texts = [text for text, _ in rows]
    index = np.array([INTENTS.index(label) for _, label in rows])
    vectors = encode(whole_base(base), texts)
    lesson = Lesson(
        texts=texts,
        vectors=vectors,
        soft=np.eye(len(INTENTS), dtype=np.float32)[index],
        labels=index,
        weights=np.ones(len(rows), np.float32),
    )
    head = fit_head(vectors, index, len(INTENTS))
    return cut_student(_recipe().student, base, texts), lesson, head


@pytest.fixture(autouse=True)
def willing_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray runs workers at a niceness of 15, which on a busy machine is hardly at all."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")


def test_workers_that_share_each_batch_make_the_student_that_one_process_makes(
    tmp_path: Path,
) -> None:
    # Two processes, gloo between them; even batches, so the average is the whole batch's gradient.
    model, lesson, head = _lesson()
    one = distil(model, lesson, head, _recipe())
    two = distil_on_ray(model, lesson, head, _recipe(), storage=tmp_path)

    assert (two.steps, set(two.losses)) == (one.steps, set(one.losses))
    assert set(two.gradient_share) == set(one.gradient_share)
    assert two.model.encoder.spec == one.model.encoder.spec
    start, alone, shared = (encode(m, lesson.texts) for m in (model, one.model, two.model))
    assert float(np.abs(alone - start).max()) > 1e-2
    assert float(np.abs(alone - shared).max()) < 1e-4


def test_a_cluster_too_small_is_one_sentence_and_not_a_wait(tmp_path: Path) -> None:
    model, lesson, head = _lesson()
    recipe = replace(_recipe(), where=WhereRecipe(use=Where.RAY_TRAIN, workers=1, gpu=True))

    with pytest.raises(ConfigError, match="1 workers need 1 CPUs and 1 GPUs; the cluster has"):
        distil_on_ray(model, lesson, head, recipe, storage=tmp_path)


# Not `ray.init`: its job agent has one port for the whole machine, and another head may be there.
_HEAD = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_memory_monitor_refresh_ms"] = "0"
os.environ["RAY_worker_niceness"] = "0"
os.environ["RAY_DASHBOARD_STARTUP_TIMEOUT_S"] = "250"
os.environ["RAY_JOB_START_TIMEOUT_SECONDS"] = "250"
from ray.cluster_utils import Cluster
head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0,
    "dashboard_agent_listen_port": 0, "object_store_memory": 256 << 20, "temp_dir": sys.argv[1]}
cluster = Cluster(initialize_head=True, head_node_args=head)
print("http://" + cluster.head_node.webui_url, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a real Ray head with its job server, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="us-ray-", dir="/tmp") as folder:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        head = subprocess.Popen(
            [sys.executable, "-c", _HEAD, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert head.stdin is not None
        assert head.stdout is not None
        try:
            yield next(line.strip() for line in head.stdout if line.startswith("http://"))
        finally:
            head.stdin.close()
            head.wait(60)
            head.stdout.close()


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder with all that a night needs; its state lies where the cluster can reach it."""
    recipe = {
        "student": {"base": str(tiny_base()), "keep_layers": [0, 1], "vocabulary": 400},
        "distil": {"epochs": 0, "threads": 1},
        "data": {"max_drop": 0.0},
    }
    cloud = {"state_dir": str(tmp_path / "state"), "tasks": {"classify": {}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    (tmp_path / "cloud.yaml").write_text(yaml.safe_dump(cloud), "utf-8")
    rows = [json.dumps({"text": t, "label": y}) + "\n" for t, y in utterances(40, 1)]
    (tmp_path / "seed.jsonl").write_text("".join(rows), "utf-8")
    return tmp_path / "recipe.yaml"


def test_a_night_submitted_to_a_cluster_runs_there_and_brings_its_exit_code(
    dashboard: str, night: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submit = ["distill", "run", "--submit", dashboard, "--no-ship", "--json", "--date", "d1"]
    assert run([*submit, "-c", str(night)]) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()

    assert "job understudy-night-d1 at" in err
    assert '"name": "day-0"' in out
    assert (night.parent / "state" / "nights" / "nights" / "day-0.json").exists()
    # A fault on the cluster is the same sentence and the same code as at home.
    night.write_text("studnt: {use: slim}\n", "utf-8")
    assert run([*submit, "-c", str(night)]) == 2
    assert "unknown key 'studnt'. Did you mean 'student'?" in capfd.readouterr().out


def test_no_cluster_at_the_address_is_one_sentence(
    night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["distill", "run", "--submit", "http://127.0.0.1:9", "-c", str(night)])

    assert code == 2
    assert "no Ray dashboard answers there" in capsys.readouterr().err


def test_the_job_says_what_was_typed_and_is_named_by_its_night(night: Path) -> None:
    options = {"--date": "", "--channel": "canary", "--where": ""}
    job = plan_job(str(night), options, {"--no-ship": True, "--json": False}, "2026-11-25")

    assert job.id == "understudy-night-2026-11-25"
    assert job.folder == str(night.parent)
    assert job.entrypoint == (
        "understudy distill run -c recipe.yaml --date 2026-11-25 --channel canary --no-ship"
    )
    assert plan_job("head-only", {}, {}, "d").folder == ""
