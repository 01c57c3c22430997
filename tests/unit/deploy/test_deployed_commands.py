"""Units, images, compose and manifests start the same three commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
PROGRAM = "/usr/local/bin/understudy"


def unit(name: str) -> dict[str, list[str]]:
    """Every value of each key of a systemd unit."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / f"understudy-{name}.service").read_text().splitlines():
        key, found, value = line.partition("=")
        if found and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


def command(name: str) -> tuple[str, ...]:
    """What a unit starts, without the program."""
    (line,) = unit(name)["ExecStart"]
    program, *words = shlex.split(line)
    assert program == PROGRAM
    return tuple(words)


UNITS = {name: command(name) for name in ("cloud", "edge", "night")}


def _in_images() -> Iterator[tuple[str, ...]]:
    for words in re.findall(
        r"^CMD (\[.*\])$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE
    ):
        yield tuple(yaml.safe_load(words))


def _in_shell(words: list[str]) -> Iterator[tuple[str, ...]]:
    """What follows `understudy` in a container's command, which may be a line of shell."""
    line = " ".join(words)
    if re.search(r"\bunderstudy (cloud|edge|distill)\b", line):
        yield tuple(line.rpartition("understudy ")[2].split())


def _in_compose() -> Iterator[tuple[str, ...]]:
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        yield from _in_shell([*service.get("command", [])])


def _in_manifests(value: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for container in value.get("containers", []):
            yield from _in_shell([*container.get("command", []), *container.get("args", [])])
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _in_manifests(inner)


def test_images_compose_and_manifests_run_the_commands_of_the_units() -> None:
    """So what a person tries natively is what runs in a container."""
    base = (DEPLOY / "kustomize" / "base" / "understudy.yaml").read_text()
    found = {
        "images": {*_in_images()},
        "compose": {*_in_compose()},
        "manifests": {*_in_manifests(list(yaml.safe_load_all(base)))},
    }

    assert found["images"] == set(UNITS.values())
    assert found["compose"] == {UNITS["cloud"], UNITS["night"]}
    assert found["manifests"] == {UNITS["cloud"], UNITS["night"]}
