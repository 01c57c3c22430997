"""The examples run: as programs, with a real student, against the installed package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.bundles import LABELS, build_bundle
from understudy.cloud.config import load_config
from unit.deploy.commands import check

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXTS = ["my card is gone", "where is the parcel", "", "a refund please"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "bundle"
    build_bundle(folder)
    return folder


def test_the_batch_job_answers_every_line_that_holds_text(bundle: Path, tmp_path: Path) -> None:
    """A file in, a file out, and a count of who answered."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, EXAMPLES / "batch.py", bundle, "texts.txt", "answers.jsonl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [text for text in TEXTS if text]
    assert {row["label"] for row in rows} <= set(LABELS)
    assert "student" in done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FastAPI's own, about its dependencies
def test_the_fastapi_product_answers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client opens with the application and closes with it."""
    from starlette.testclient import TestClient

    monkeypatch.setenv("EDGE_CONFIG", str(bundle))
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fastapi_app", module)
    spec.loader.exec_module(module)

    with TestClient(module.app) as client:
        answer = client.post("/intent", json={"text": "my card is gone", "private": True})
        health = client.get("/healthz")

    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] in LABELS
    assert health.json()["requests"] == 1


@pytest.fixture(scope="module")
def sidecar(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`understudy edge serve` as a process of its own; gives its address."""
    config = tmp_path_factory.mktemp("sidecar") / "edge.yaml"
    config.write_text(f"bundle: {bundle}\nsidecar: {{http_port: 0, grpc_port: -1}}\n")
    command = [sys.executable, "-u", "-m", "understudy.cli", "edge", "serve", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = re.search(r"(?:port |127\.0\.0\.1:)(\d+)", process.stdout.readline())
            assert said is not None
            yield f"http://127.0.0.1:{said[1]}"
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0


ASKERS = {"curl": EXAMPLES / "sidecar" / "ask.sh", "node": EXAMPLES / "sidecar" / "ask.mjs"}
PRESENT = [program for program in ASKERS if shutil.which(program)]


@pytest.mark.parametrize("program", PRESENT)
@pytest.mark.parametrize("text", ["my card is gone", 'say "card" \\ twice', "卡不见了"])
def test_a_product_in_another_language_is_answered(program: str, text: str, sidecar: str) -> None:
    """The sidecar is the client, for everybody else."""
    script = str(ASKERS[program])
    command = [script, text] if program == "curl" else [program, script, text]

    done = subprocess.run(
        command,
        env={**os.environ, "SIDECAR": sidecar},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] in LABELS


def test_the_language_model_s_configuration_is_one_the_product_reads() -> None:
    """An example that stops at its first key helps nobody."""
    config = load_config(EXAMPLES / "vllm" / "cloud.yaml", {})

    assert config.teacher.engine == "vllm"
    assert config.serve is not None
    assert config.serve.replica_gpus == 1.0
    assert len(config.tasks["support-desk"].labels) >= 2


def test_cron_runs_the_command_that_people_type() -> None:
    """And has the file with the passphrase read by the shell, not written into the line."""
    (line,) = [
        line
        for line in (EXAMPLES / "cron" / "understudy").read_text().splitlines()
        if line[:1].isdigit()
    ]
    command = line.rpartition("understudy distill")[2].partition("2>&1")[0]

    check(["distill", *command.split()])
    assert "publisher.env" in line


def test_the_ray_job_is_the_night_that_people_type(tmp_path: Path) -> None:
    """Run with an `understudy` in its place that writes down what it was told."""
    fake = tmp_path / "bin" / "understudy"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$TOLD"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ,
        "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}",
        "TOLD": str(tmp_path / "told"),
    }
    submit: list[str | Path] = [
        EXAMPLES / "ray-job" / "submit.sh",
        "http://head:8265",
        "night/recipe.yaml",
    ]

    subprocess.run([*submit, "--no-ship"], env=environment, timeout=60, check=True)

    told = (tmp_path / "told").read_text().splitlines()
    assert told == [
        *("distill", "run", "-c", "night/recipe.yaml"),
        *("--submit", "http://head:8265", "--no-ship"),
    ]
    check([word for word in told if word != "--no-ship"])
