"""The cloud's orders through restarts: real processes, a real far side, real files."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.bundles import build_bundle
from simulators.edge_gateway import EdgeGateway, wait_until
from understudy.edge import EdgeClient
from understudy.edge.bundle import read_bundle
from understudy.types.answer import Answer
from understudy.types.decision import Reason
from understudy.types.release import Directive, SliceOrder

SURE = "the machine swallowed my card"
WITHDRAWN = Directive(
    certificate_revoked=True,
    threshold_floor=math.inf,
    audit_rate=0.5,
    revoked_slices=(SliceOrder("legal", math.inf),),
)
CALM_RATE = 0.125

_CHILD = """
import sys, time
sys.path[:] = {path!r}
from understudy.edge import EdgeClient
client = EdgeClient.open({config!r})
client.predict("begin")
while client.status().audit_rate != 0.5:
    time.sleep(0.01)
print("ordered", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "b"
    build_bundle(directory)
    return directory


@pytest.fixture
def config(bundle: Path, tmp_path: Path) -> Path:
    """A node without a cloud: nothing listens on port 9."""
    path = tmp_path / "edge.yaml"
    path.write_text(
        f"bundle: {bundle}\nstate_dir: state\naudit: {{rate: {CALM_RATE}}}\n"
        "gateway: {address: '127.0.0.1:9'}\n"
    )
    return path


def connected(config: Path, gateway: EdgeGateway) -> Path:
    """The same node, with a cloud."""
    path = config.with_name("connected.yaml")
    path.write_text(config.read_text().replace("127.0.0.1:9", gateway.address))
    return path


def order(config: Path, directive: Directive) -> None:
    """Lets a node hear the cloud's orders, and ends it."""
    kept, lasting = config.parent / "state" / "orders.json", directive != Directive()
    with EdgeGateway() as gateway:
        gateway.directive = directive
        with EdgeClient.open(connected(config, gateway)) as client:
            client.predict(SURE)
            wait_until(lambda: bool(gateway.statuses) and kept.exists() is lasting)


def alone(config: Path, **options: str) -> Answer:
    """The first answer of a process that has not reached the cloud."""
    with EdgeClient.open(config) as client:
        return client.predict(SURE, **options)  # type: ignore[arg-type] # words of the options


def test_a_withdrawn_certificate_stays_withdrawn_in_a_killed_process(config: Path) -> None:
    """Else a crash would be a way to keep wrong answers certified for a quarter of an hour."""
    with EdgeGateway() as gateway:
        gateway.directive = WITHDRAWN
        code = _CHILD.format(path=sys.path, config=str(connected(config, gateway)))
        child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ordered\n"
        # Obeyed comes before kept: wait for the file, then no farewell.
        wait_until((config.parent / "state" / "orders.json").exists)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()

    answer = alone(config)

    assert (False, True) == (answer.certified, answer.degraded)


def test_orders_end_when_the_cloud_ends_them(config: Path) -> None:
    """The audit rate goes back to the configured one, and nothing stays on disk."""
    order(config, WITHDRAWN)
    order(config, Directive())

    assert alone(config).certified
    assert not (config.parent / "state" / "orders.json").exists()


def test_an_order_for_one_slice_leaves_the_others_alone(config: Path) -> None:
    """A slice lost its certificate: its answers escalate, the rest of the traffic is kept."""
    order(config, Directive(audit_rate=0.5, revoked_slices=(SliceOrder("legal", math.inf),)))

    legal, other = alone(config, slice_name="legal"), alone(config, slice_name="billing")

    assert (False, True) == (legal.certified, legal.degraded)
    assert (True, Reason.CONFIDENT) == (other.certified, other.reason)


def test_another_bundle_begins_without_orders(config: Path, tmp_path: Path) -> None:
    """They spoke of a student that is no longer there."""
    order(config, WITHDRAWN)
    build_bundle(tmp_path / "next", seed=1)

    with EdgeClient.open(config) as client:
        before = client.status()
        client.runtime.swap(read_bundle(tmp_path / "next"))  # as the updater does
        after = client.status()

    assert (False, 0.5) == (before.certified, before.audit_rate)
    assert (True, CALM_RATE) == (after.certified, after.audit_rate)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"bundle": "b", "certif', id="torn"),
        pytest.param(b'{"bundle": 7}', id="wrong type"),
        pytest.param(b"\xff\x00" * 99, id="garbage"),
        pytest.param(b"[" * 5000, id="deep"),
    ],
)
def test_damaged_orders_are_set_aside_and_counted(config: Path, damage: bytes) -> None:
    """The product starts all the same, and the check-in brings the orders anew."""
    order(config, WITHDRAWN)
    path = config.parent / "state" / "orders.json"
    path.write_bytes(damage)

    with EdgeClient.open(config) as client:
        faults = client.status().faults

    assert 1 == faults["orders"]
    assert damage == path.with_name("orders.json.damaged").read_bytes()
    assert not path.exists()


def test_orders_hold_where_the_disk_refuses_them(config: Path) -> None:
    """A full or broken disk costs their durability, not their effect."""
    (config.parent / "state" / "orders.json" / "in the way").mkdir(parents=True)
    with EdgeGateway() as gateway:
        gateway.directive = WITHDRAWN
        with EdgeClient.open(connected(config, gateway)) as client:
            client.predict(SURE)
            wait_until(lambda: client.status().audit_rate == 0.5)
            wait_until(lambda: client.status().faults.get("orders", 0) > 1)  # read, written
            assert not client.predict(SURE).certified
