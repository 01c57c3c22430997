"""A product that answers while its student is replaced over the air, with the real client."""

from __future__ import annotations

import threading
from pathlib import Path

from simulators.artifact_server import Shelf, served
from simulators.bundles import TASK, build_bundle
from understudy.cloud.releases import ReleaseRepository
from understudy.edge import EdgeClient
from understudy.edge.config import (
    EdgeConfig,
    GatewayConfig,
    Mode,
    SpoolConfig,
    UpdaterConfig,
)
from understudy.types.answer import Answer
from understudy.types.release import Directive

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


def test_every_request_is_answered_by_one_whole_student_during_a_swap(tmp_path: Path) -> None:
    """Old answers, then new ones; none missing, none from in between, none going back."""
    old = build_bundle(tmp_path / "old", seed=0)
    new = build_bundle(tmp_path / "new", seed=1)
    repository = ReleaseRepository.create(tmp_path / "server", tmp_path / "keys", PASSPHRASE)
    release = repository.publisher(tmp_path / "keys", PASSPHRASE).publish(
        tmp_path / "new", "stable"
    )
    store = repository.store()
    (tmp_path / "root.json").write_bytes(store.trusted_root())
    directive = Directive(bundle=release.bundle, target=release.target, next_check_in_s=3600.0)
    shelf = Shelf(store, on_check_in=lambda _status: directive)
    swapped, answers = threading.Event(), [list[Answer]() for _ in range(3)]
    with served(shelf) as address, EdgeClient.open(_config(tmp_path, address)) as client:
        stop = client.on_event(lambda event: swapped.set() if event.bundle == new else None)

        def ask(mine: list[Answer]) -> None:
            while not (swapped.is_set() and mine and mine[-1].bundle == new):
                mine.append(client.predict("the machine swallowed my card"))

        threads = [threading.Thread(target=ask, args=(mine,), daemon=True) for mine in answers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        stop()

    for mine in answers:
        bundles = [answer.bundle for answer in mine]
        assert [old] * bundles.count(old) + [new] * bundles.count(new) == bundles
        assert {"card"} == {answer.label for answer in mine}
        assert bundles.count(new) >= 1
    assert {TASK} == {status.task for status in shelf.heard}


def _config(folder: Path, address: str) -> EdgeConfig:
    return EdgeConfig(
        bundle=str(folder / "old"),
        state_dir=str(folder / "state"),
        gateway=GatewayConfig(address=address),
        mode=Mode.EDGE_ONLY,
        spool=SpoolConfig(enabled=False),
        updater=UpdaterConfig(
            trusted_root=str(folder / "root.json"), probation_requests=1, probation_s=0.0
        ),
    )
