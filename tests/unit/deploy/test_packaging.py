"""What is shipped: types with every part, and lower bounds that the generated code loads with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
OPTIONAL = PROJECT["optional-dependencies"]
EVERY = [*PROJECT["dependencies"], *(line for extra in OPTIONAL.values() for line in extra)]
ROOTS = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PARTS = [part for root in ROOTS for part in sorted((ROOT / root).iterdir()) if part.is_dir()]
SHIPPED = [p for p in PARTS if any(p.glob("**/*.py"))]
GENERATED = ROOT / "protos" / "understudy" / "wire" / "v1"


def lowest(name: str) -> Version:
    """The lowest version of a package that any of our lines allows."""
    found = [
        Version(specifier.version)
        for requirement in map(Requirement, EVERY)
        if requirement.name == name
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]
    return min(found)


@pytest.mark.parametrize("part", SHIPPED, ids=lambda p: p.name)
def test_every_part_ships_its_types(part: Path) -> None:
    """Without the marker a product's type checker sees nothing but Any."""
    assert (part / "py.typed").is_file()


@pytest.mark.parametrize("package", ["grpcio", "grpcio-health-checking", "grpcio-reflection"])
def test_the_oldest_grpc_we_allow_loads_the_generated_code(package: str) -> None:
    """It refuses to be imported by an older one."""
    wanted = {
        Version(found)
        for path in GENERATED.glob("*_pb2_grpc.py")
        for found in re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text())
    }

    assert wanted
    assert lowest(package) >= max(wanted)


def test_the_oldest_protobuf_we_allow_loads_the_generated_code() -> None:
    """The generator writes its own version into each file."""
    texts = [path.read_text() for path in GENERATED.glob("*_pb2.py")]
    found = [re.search(r"Protobuf Python Version: ([\d.]+)", text) for text in texts]

    assert found
    assert all(match and lowest("protobuf") >= Version(match[1]) for match in found)


def test_what_is_asked_of_by_name_has_a_lower_bound() -> None:
    """Without one, the run with the lowest versions would try the first release there ever was."""
    bare = [
        line
        for line in [*PROJECT["dependencies"], *OPTIONAL["cloud"], *OPTIONAL["distill"]]
        if not Requirement(line).specifier
    ]

    assert bare == []
