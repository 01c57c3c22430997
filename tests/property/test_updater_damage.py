"""Law of the state folder: one damaged byte anywhere never makes a node load what is not whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulators.bundles import build_bundle
from understudy.edge.updater_state import Current, Record, StateFolder, boot
from understudy.types.bundle import MANIFEST
from understudy.types.errors import BundleError
from understudy.types.release import UpdateState


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A node on probation: two whole slots, the pointer at the new one."""
    home = tmp_path_factory.mktemp("healthy")
    ids = [build_bundle(home / f"bundle{n}", seed=n, static=True) for n in (0, 1)]
    folder = StateFolder(home / "node")
    old = folder.adopt(home / "bundle0")
    files = {path.name: path for path in (home / "bundle1").iterdir()}
    folder.fill("B", files)
    folder.point(Current(slot="B", bundle=ids[1], sequence=2))
    folder.persist(Record(state=UpdateState.PROBATION, bundle=ids[1], previous=old, attempts=1))
    return home / "node", set(ids)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_byte_never_leaves_a_node_without_a_whole_student(
    data: st.DataObject, healthy: tuple[Path, set[str]], tmp_path: Path
) -> None:
    home, ids = healthy
    broken = tmp_path / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(home, broken)
    names = sorted(p.relative_to(broken) for p in broken.rglob("*") if p.is_file())
    file = broken / data.draw(st.sampled_from([name for name in names if "lock" not in name.name]))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.chmod(0o600)
    file.write_bytes(content)
    bundle = boot(broken)

    assert bundle is not None
    assert bundle.id in ids


def test_an_untested_slot_is_never_loaded_because_there_is_no_pointer(
    healthy: tuple[Path, set[str]], tmp_path: Path
) -> None:
    """A first download that was staged and never activated is not an installed student."""
    folder = StateFolder(tmp_path / "node")
    slot = healthy[0] / "slots" / "A"
    folder.fill("A", {path.name: path for path in slot.iterdir()})

    assert boot(tmp_path / "node") is None


def test_two_damaged_slots_are_reported_as_nothing_installed(
    healthy: tuple[Path, set[str]], tmp_path: Path
) -> None:
    shutil.copytree(healthy[0], tmp_path / "node")
    for slot in ("A", "B"):
        (tmp_path / "node" / "slots" / slot / MANIFEST).unlink()

    assert boot(tmp_path / "node") is None


def test_only_a_whole_bundle_is_adopted(tmp_path: Path) -> None:
    build_bundle(tmp_path / "bundle", static=True)
    (tmp_path / "bundle" / MANIFEST).write_bytes(b"{}")
    with pytest.raises(BundleError):
        StateFolder(tmp_path / "node").adopt(tmp_path / "bundle")

    assert boot(tmp_path / "node") is None
