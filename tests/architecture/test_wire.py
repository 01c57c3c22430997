"""The wire code is what `make protos` makes, and its words are the words of the types."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from understudy.types.decision import Reason, RecordKind
from understudy.types.release import UpdateState
from understudy.wire.v1 import fleet_pb2, records_pb2

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "wire", "prefix"),
    [
        pytest.param(Reason, records_pb2.Reason, "REASON_", id="reason"),
        pytest.param(RecordKind, records_pb2.RecordKind, "RECORD_KIND_", id="record kind"),
        pytest.param(UpdateState, fleet_pb2.UpdateState, "UPDATE_STATE_", id="update state"),
    ],
)
def test_an_enum_has_the_same_words_on_the_wire(
    words: type[StrEnum], wire: EnumTypeWrapper, prefix: str
) -> None:
    expected = {f"{prefix}UNSPECIFIED", *(f"{prefix}{word.upper()}" for word in words)}

    assert expected == set(wire.keys())


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    sources = sorted((ROOT / "protos/understudy/wire/v1").glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command += [str(path.relative_to(ROOT)) for path in sources]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}

    subprocess.run(command, cwd=ROOT, check=True, timeout=60, env=environment)

    made = {path.name: path.read_text() for path in tmp_path.rglob("*.py")}
    kept = {name: (ROOT / "protos/understudy/wire/v1" / name).read_text() for name in made}
    assert kept == made
