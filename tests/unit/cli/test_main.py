"""The command line: help with an example, one sentence on bad input, exit codes that mean it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from understudy.cli.main import run

PROMISED = [
    "demo",
    "simulate",
    "cloud up",
    "cloud status",
    "cloud render",
    "node enroll",
    "node list",
    "node revoke",
    "distill run",
    "distill plan",
    "distill report",
    "distill refresh",
    "distill due",
    "distill proposals",
    "distill approve",
    "release list",
    "release promote",
    "release rollback",
    "release verify",
    "release rotate",
    "release renew",
    "release reseal",
    "release withdraw",
    "policy fit",
    "policy plan",
    "policy what-if",
    "edge predict",
    "edge status",
]


@pytest.mark.parametrize("words", PROMISED)
def test_every_promised_command_has_help_with_an_example(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*words.split(), "--help"])

    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert 0 == code
    assert f"understudy {words}" in said
    assert "Example:" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["demoo"], "No such command 'demoo'", id="command"),
        pytest.param(["simulate"], "Missing option '--seed'", id="missing option"),
        pytest.param(["demo", "--days", "many"], "Invalid value for '--days'", id="not a number"),
        pytest.param(["release", "list", "--releases", "/nowhere"], "/nowhere is no", id="folder"),
        pytest.param(["cloud", "status", "-c", "/nowhere.yaml"], "/nowhere.yaml", id="config"),
        pytest.param(["edge", "predict", "hi", "-c", "/nowhere.yaml"], "/nowhere.yaml", id="edge"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(words)

    said = capsys.readouterr().err
    assert 2 == code
    assert message in said
    assert "Traceback" not in said


def test_help_loads_nothing_heavy() -> None:
    # Edge devices have this command line too.
    code = (
        "import sys; from understudy.cli.main import run; run(['--help']);"
        "heavy = {'torch', 'transformers', 'ray', 'numpy', 'onnxruntime', 'grpc', 'scipy'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)
