"""The wheel alone, in a virtual environment of its own, without anything of this checkout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.bundles import build_bundle

ROOT = Path(__file__).resolve().parents[2]
_OFFLINE = re.compile(
    "Failed to establish a new connection|Temporary failure in name resolution|"
    "Network is unreachable|Read timed out|ProxyError"
)
HEAVY = ("torch", "transformers", "ray", "vllm", "sklearn", "scipy", "onnx", "pandas", "optuna")
_ANSWER = """
import importlib.util, json, sys
import understudy.edge
from understudy.edge import EdgeClient
with EdgeClient.open(sys.argv[1]) as client:
    answer = client.predict("the machine swallowed my card")
print(json.dumps({
    "label": answer.label, "certified": answer.certified, "home": understudy.edge.__file__,
    "heavy": [name for name in sys.argv[2:] if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def fresh() -> Iterator[Path]:
    """The interpreter of an environment that holds the wheel and what it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT]
        subprocess.run([*map(str, build)], check=True, capture_output=True)
        [wheel] = Path(folder).glob("*.whl")
        environment = Path(folder, "fresh")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        python = environment / "bin" / "python"
        # No byte code: the environment lives for two runs.
        install = [
            sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check",
            "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", wheel,
        ]  # fmt: skip
        run = subprocess.run([*map(str, install)], capture_output=True, text=True, check=False)
        if run.returncode and _OFFLINE.search(run.stderr):
            pytest.skip("no package index can be reached, so the wheel's needs cannot be installed")
        assert run.returncode == 0, run.stderr
        yield python


def test_the_wheel_alone_answers_and_brings_nothing_heavy(fresh: Path, tmp_path: Path) -> None:
    """A product installs one package; what trains and serves stays with the operator."""
    build_bundle(tmp_path / "bundle")
    command = [fresh, "-I", "-c", _ANSWER, tmp_path / "bundle", *HEAVY]
    run = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["label"], found["certified"], found["heavy"]) == ("card", True, [])
    assert Path(found["home"]).is_relative_to(fresh.parents[1])


def test_the_command_line_works_without_the_extras(fresh: Path, tmp_path: Path) -> None:
    """On a node, `understudy edge predict` is all that a shell has."""
    build_bundle(tmp_path / "bundle")
    command = [fresh.parent / "understudy", "edge", "predict", "--help"]
    run = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert (run.returncode, "Usage" in run.stdout) == (0, True), run.stderr
