"""What an import brings along, seen in fresh interpreters: parents' `__init__` files count, too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch", "transformers", "ray", "vllm", "sklearn", "pandas", "numpy", "scipy", "onnxruntime",
    "tokenizers", "grpc", "google", "tuf", "cryptography",
)  # fmt: skip
LIGHT = (
    "understudy.types.decision",
    "understudy.types.answer",
    "understudy.router.policy",
    "understudy.router.audit",
    "understudy.router.budget",
    "understudy.edge",
    "understudy.edge.config",
    "understudy.cli.main",
)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in an isolated interpreter after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_brings_nothing_heavy(module: str) -> None:
    """A product pays for numpy and gRPC when it opens a client, not when it imports one."""
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["EdgeClient", "AsyncEdgeClient", "EdgeConfig", "Answer"])
def test_a_public_name_of_the_edge_brings_nothing_heavy(name: str) -> None:
    """`from understudy.edge import EdgeClient` at the top of a product's file stays free."""
    assert loaded_by(f"from understudy.edge import {name}").isdisjoint(HEAVY)


def test_the_guard_sees_what_a_heavy_module_brings() -> None:
    """A guard that cannot fail guards nothing."""
    assert {"numpy", "onnxruntime", "tokenizers"} <= loaded_by("import understudy.edge.student")
