"""The compose file: what runs, with which rights, and who holds the keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.deploy.commands import check

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()


def test_the_promised_services_are_there() -> None:
    """Gateway, Ray head and worker, Redis, one edge, the timer."""
    assert set(SERVICES) == {"redis", "ray-head", "ray-worker", "gateway", "edge", "timer"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_it_does_not_need(name: str) -> None:
    """A container that is broken into should be a dull place."""
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "mem_limit" in service


@pytest.mark.parametrize("name", [n for n, s in SERVICES.items() if "build" in s])
def test_a_built_image_is_a_target_of_the_dockerfile(name: str) -> None:
    """A misspelt target builds the last stage and says nothing."""
    build = SERVICES[name]["build"]

    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert re.search(rf"^FROM .* AS {re.escape(build['target'])}$", DOCKERFILE, re.MULTILINE)


def test_every_mounted_configuration_exists() -> None:
    """Compose would make an empty folder in its place."""
    used = {c["source"] for s in SERVICES.values() for c in s.get("configs", [])}

    assert used == set(COMPOSE["configs"])
    for config in COMPOSE["configs"].values():
        assert (DEPLOY / config["file"]).is_file()


def test_services_and_images_run_commands_that_people_can_type() -> None:
    """Nothing here is a second way to start the product."""
    shells = [" ".join(s["command"]) for s in SERVICES.values() if "command" in s]
    images = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    lines = [s.partition("understudy ")[2] for s in shells if "understudy " in s]
    commands = [shlex.split(line) for line in lines] + [yaml.safe_load(i) for i in images]

    assert len(commands) >= 6
    for command in commands:
        check(command)


def test_the_publisher_s_keys_are_with_the_night_and_nowhere_else() -> None:
    """A stolen gateway must not be able to sign a student."""
    holders = {
        name
        for name, s in SERVICES.items()
        if any(v.startswith("keys:") for v in s.get("volumes", []))
        or "UNDERSTUDY_PASSPHRASE" in s.get("environment", {})
    }

    assert holders == {"timer"}


def test_redis_neither_evicts_nor_forgets() -> None:
    """The log is acknowledged when it is durable; an evicting Redis would make that a lie."""
    command = " ".join(SERVICES["redis"]["command"])

    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_console_and_metrics_are_published_to_this_box_only() -> None:
    """They are plain HTTP."""
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:") or port in {"7443:7443", "7444:7444"}


def test_images_do_not_run_as_root() -> None:
    """Numeric, so that Kubernetes can see it."""
    ours = re.compile(r" AS (edge|cloud-cpu|cloud-cuda|night)$", re.MULTILINE)
    finals = [target for target in DOCKERFILE.split("\nFROM ") if ours.search(target)]

    assert len(finals) == 4
    for target in finals:
        assert "\nUSER 10001\n" in target
