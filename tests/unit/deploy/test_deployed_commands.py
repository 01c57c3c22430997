"""Units, images, compose and manifests start the same three commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from simulators.deployed_box import DEPLOY, UNITS


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
    """So what is run natively, in the integration tests, is what runs in a container."""
    base = (DEPLOY / "kustomize" / "base" / "understudy.yaml").read_text()
    found = {
        "images": {*_in_images()},
        "compose": {*_in_compose()},
        "manifests": {*_in_manifests(list(yaml.safe_load_all(base)))},
    }

    assert found["images"] == set(UNITS.values())
    assert found["compose"] == {UNITS["cloud"], UNITS["night"]}
    assert found["manifests"] == {UNITS["cloud"], UNITS["night"]}
