"""Gateways as processes of their own, from a configuration on disk."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from simulators.cloud_gateway import LABELS, TASK, Badge, wait_until
from understudy.cloud.authority import make_request
from understudy.cloud.config import CloudConfig, load_config
from understudy.cloud.parts import open_enrolment, open_state
from understudy.cloud.process import read_state_file
from understudy.cloud.running import RunningCloud

TEXTS = [f"question {i}" for i in range(20)]
PROGRAM = (
    "import sys; from pathlib import Path; from understudy.cloud.config import load_config; "
    "from understudy.cloud.process import run_gateway; run_gateway(load_config(Path(sys.argv[1])))"
)


class Process:
    """One gateway process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config = load_config(path)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(self._path)])
        wait_until(self._is_up, 60)

    def stop(self, number: signal.Signals) -> int:
        """Sends the signal and gives the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._process = None
        return code

    @property
    def running(self) -> RunningCloud:
        found = read_state_file(self.config)
        assert found is not None
        return found

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the gateway did not start"
        found = read_state_file(self.config)
        return found is not None and found.pid == self._process.pid


def write_config(folder: Path, **sections: str) -> Path:
    recordings = folder / "answers.jsonl"
    rows = [{"text": t, "teacher_label": LABELS[i % 3]} for i, t in enumerate(TEXTS)]
    recordings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {
        "state_dir": "state",
        "tasks": f"{{{TASK}: {{labels: [{', '.join(LABELS)}]}}}}",
        "teacher": f"{{engine: replay, recordings: {recordings}}}",
        "gateway": "{address: '127.0.0.1:0', enroll_address: '127.0.0.1:0', drain_s: 10}",
        "operator": "{address: '127.0.0.1:0'}",
        "quotas": "{requests_per_s: 0, bytes_per_s: 0, teacher_calls_per_s: 0}",
    }
    path = folder / "cloud.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (keys | sections).items()))
    return path


def make_badge(config: CloudConfig, node: str) -> Badge:
    """Enrols beside the gateway, as `understudy node` does."""
    request = make_request(node)
    state = open_state(config)
    with contextlib.closing(state):
        desk = open_enrolment(config, state)
        invitation = desk.invite(node, address="", enroll_address="")
        _, certificate = desk.enroll(invitation.token, request.certificate)
        return Badge(node, desk.ca_certificate, request.key, certificate)
