"""A disk that is really full: the state folder lies on a tmpfs of a few megabytes.

The mount lives in a mount namespace of the child's own, so that nothing is left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from simulators.bundles import build_bundle
from simulators.edge_gateway import EdgeGateway, refuse_with
from understudy.edge import EdgeClient

_TMPFS = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command before `sh -c` that may mount; root's, or an ordinary user's where allowed."""
    probe = tmp_path_factory.mktemp("probe")
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("`unshare` of util-linux is not here, so no small tmpfs can be mounted")
    for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = [unshare, *flags, "sh", "-c", _TMPFS, str(probe), "true"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [unshare, *flags]
    pytest.skip(
        "neither this user nor a user namespace may mount a tmpfs here; a full disk is played with "
        "the kernel's limit on file sizes in tests/unit/edge/test_spool.py only"
    )


_CHILD = """
import json, os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from understudy.edge import EdgeClient
config, state, full_from_the_start = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "start"

def fill():
    with open(state / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            return os.statvfs(state).f_bavail

def say(**found):
    print(json.dumps(found), flush=True)

def stand():
    client.runtime.uploader.store()
    stats = client.runtime.uploader.spool.stats()
    say(rows=stats.rows, free=os.statvfs(state).f_bavail, faults=dict(client.status().faults))

if full_from_the_start:
    fill()
client = EdgeClient.open(config)
if not full_from_the_start:
    client.predict("qqq", mode="edge_only")
    client.runtime.uploader.store()
    fill()
ids = []
for number in range(200):
    ids.append(client.predict(f"qqq {{number}} " + "x" * 3000, mode="edge_only").request_id)
    if number % 20 == 0:
        client.runtime.uploader.store()
say(ids=ids)
stand()
sys.stdin.readline()
os.remove(state / "filler")
client.predict("qqq", mode="edge_only")
stand()
sys.stdin.readline()
say(flushed=client.flush(30))
client.close()
"""


@pytest.fixture
def child(namespace: list[str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    running: list[subprocess.Popen[str]] = []
    build_bundle(tmp_path / "bundle")
    (tmp_path / "state").mkdir()

    def start(address: str, when: str) -> subprocess.Popen[str]:
        config = tmp_path / "edge.yaml"
        config.write_text(
            f"bundle: bundle\nstate_dir: state\ngateway: {{address: '{address}'}}\n"
            "spool: {queue_rows: 1000}\n"
        )
        code, state = _CHILD.format(path=sys.path), str(tmp_path / "state")
        command = [*namespace, "sh", "-c", _TMPFS, state, sys.executable, "-c", code]
        running.append(
            subprocess.Popen([*command, str(config), state, when], stdin=-1, stdout=-1, text=True)
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("when", ["later", "start"])
def test_a_full_disk_costs_no_answer_and_no_record(child: Any, when: str) -> None:
    """Records wait in memory, move to the disk when it has room, and arrive once."""
    with EdgeGateway() as gateway:
        gateway.fault = refuse_with(grpc.StatusCode.UNAVAILABLE)
        process = child(gateway.address, when)

        def said() -> dict[str, Any]:
            return dict(json.loads(process.stdout.readline()))

        ids, full = said()["ids"], said()
        print(file=process.stdin, flush=True)
        roomy = said()
        gateway.fault = None
        print(file=process.stdin, flush=True)
        assert said() == {"flushed": True}
        assert process.wait(60) == 0

    assert len(set(ids)) == 200
    assert (full["free"], full["faults"]["spool_disk"] > 0) == (0, True)
    assert full["rows"] >= 200
    assert roomy["rows"] == full["rows"] + 1
    assert roomy["free"] > 0
    assert set(ids) <= set(gateway.stored)
    assert set(gateway.deliveries.values()) == {1}
    assert not {"queue", "spool_full", "audit_lost"} & set(roomy["faults"])


_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
_APPLIANCE = """
import json, os, sys
sys.path[:0] = {path!r}
from understudy.edge import EdgeClient
config, state = sys.argv[1:]
try:
    open(os.path.join(state, "probe"), "w")
except OSError as error:
    writable = error.strerror
with EdgeClient.open(config) as client:
    sure = client.predict("the machine swallowed my card")
    asked = client.predict("qqq")
    later = client.predict("qqq", mode="edge_only")
    print(json.dumps({{
        "writable": writable, "sure": [sure.label, sure.certified, sure.bundle],
        "asked": asked.source, "later": later.request_id, "flushed": client.flush(20),
        "durable": client.status().spool_durable,
    }}))
"""


def test_a_read_only_state_folder_costs_durability_only(
    namespace: list[str], tmp_path: Path
) -> None:
    """Appliances mount everything read-only; the student that was installed there answers."""
    installed = build_bundle(tmp_path / "bundle")
    config, state = tmp_path / "edge.yaml", tmp_path / "state"
    with EdgeGateway() as gateway:
        config.write_text(
            "bundle: bundle\nstate_dir: state\ndeadline_ms: 5000\n"
            f"gateway: {{address: '{gateway.address}'}}\n"
        )
        with EdgeClient.open(config) as client:
            client.predict("qqq")
        shutil.rmtree(tmp_path / "bundle")
        code = _APPLIANCE.format(path=sys.path)
        command = [*namespace, "sh", "-c", _READ_ONLY, str(state), sys.executable, "-c", code]
        run = subprocess.run(
            [*command, str(config), str(state)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)

    assert found["writable"] == "Read-only file system"
    assert found["sure"] == ["card", True, installed]
    assert (found["asked"], found["flushed"], found["durable"]) == ("teacher", True, False)
    assert found["later"] in gateway.stored


def test_the_mount_is_the_childs_alone(namespace: list[str], tmp_path: Path) -> None:
    """A test that leaves mounts behind breaks the machine that runs it."""
    command = [*namespace, "sh", "-c", _TMPFS, str(tmp_path), "touch", str(tmp_path / "inside")]
    subprocess.run(command, check=True, capture_output=True)

    assert not os.path.ismount(tmp_path)
    assert not list(tmp_path.iterdir())
