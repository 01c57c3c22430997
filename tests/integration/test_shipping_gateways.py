"""Two gateway processes ship one rollout: what either hears or is told holds for both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from simulators.bundles import build_bundle
from simulators.cloud_gateway import TASK, Badge
from simulators.gateway_process import Process, make_badge, write_config
from understudy.cli.main import run
from understudy.cloud.releases import Publisher, ReleaseRepository
from understudy.types.convert import status_to_wire
from understudy.types.release import NodeStatus, UpdateState
from understudy.wire.v1 import fleet_pb2, fleet_pb2_grpc

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


@dataclass
class Twins:
    """Two gateways over one state folder, and nodes that may talk to either."""

    config: Path
    publisher: Publisher
    grpc: tuple[str, str]
    operator: tuple[str, str]
    badges: list[Badge]

    def tell(self, gateway: int, badge: Badge, bundle: str, state: UpdateState) -> str:
        """A node's check-in; gives the bundle that it hears of."""
        status = NodeStatus(task=TASK, bundle=bundle, state=state)
        with badge.channel(self.grpc[gateway]) as channel:
            request = fleet_pb2.CheckInRequest(status=status_to_wire(status))
            answer = fleet_pb2_grpc.FleetServiceStub(channel).CheckIn(request, timeout=20)
        return str(answer.directive.bundle)

    def expiring(self) -> list[str]:
        """The roles whose end is in the metrics."""
        text = httpx.get(f"http://{self.operator[0]}/metrics").text
        return re.findall(r'understudy_release_expires_unix_seconds{role="(\w+)"}', text)

    def metrics(self, gateway: int) -> set[str]:
        """The lines about the rollout."""
        text = httpx.get(f"http://{self.operator[gateway]}/metrics").text
        return {line for line in text.splitlines() if line.startswith("understudy_rollout_")}


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Twins]:
    build_bundle(tmp_path / "old", seed=0)
    releases = tmp_path / "state" / "releases"
    repository = ReleaseRepository.create(releases, tmp_path / "keys", PASSPHRASE)
    publisher = repository.publisher(tmp_path / "keys", PASSPHRASE)
    first = write_config(tmp_path, rollout="{stages: [0.5, 1.0]}")
    (tmp_path / "second").mkdir()
    second = tmp_path / "second" / "cloud.yaml"
    second.write_text(
        first.read_text().replace("state_dir: state", f"state_dir: {tmp_path / 'state'}")
    )
    with Process(first) as one:
        badges = [make_badge(one.config, f"shop-{i}") for i in range(8)]
        a = one.running
        with Process(second) as other:
            b = other.running
            yield Twins(
                first,
                publisher,
                (a.address, b.address),
                (a.operator_address, b.operator_address),
                badges,
            )


def test_a_rollout_is_one_rollout_at_two_gateways(twins: Twins, tmp_path: Path) -> None:
    old = twins.publisher.publish(tmp_path / "old", "stable").bundle
    for number, badge in enumerate(twins.badges):
        assert old == twins.tell(number % 2, badge, "", UpdateState.IDLE)
        twins.tell(number % 2, badge, old, UpdateState.COMMIT)
    build_bundle(tmp_path / "new", seed=1)
    new = twins.publisher.publish(tmp_path / "new", "stable").bundle
    first = [b for b in twins.badges if twins.tell(0, b, old, UpdateState.IDLE) == new]
    assert 2 <= len(first) < len(twins.badges)

    assert first == [b for b in twins.badges if twins.tell(1, b, old, UpdateState.IDLE) == new]
    twins.tell(0, first[0], new, UpdateState.COMMIT)
    assert _line("rollout_nodes", new, 'outcome="committed"', 1) in twins.metrics(1)

    assert 0 == run(["release", "pause", "-c", str(twins.config), "--task", TASK])
    assert [old, old] == [twins.tell(g, first[-1], old, UpdateState.IDLE) for g in (0, 1)]
    assert twins.metrics(0) == twins.metrics(1)
    assert _line("rollout_state", new, 'state="paused"', 1) in twins.metrics(0)
    assert {"root", "targets"} <= set(twins.expiring())


def _line(name: str, bundle: str, label: str, value: int) -> str:
    inner = sorted([f'bundle="{bundle}"', 'channel="stable"', f'task="{TASK}"', label])
    return f"understudy_{name}{{{','.join(inner)}}} {value}.0"
