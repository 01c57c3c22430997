"""Updates from a signed repository to a running student, over a real gRPC server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from simulators.artifact_server import Shelf, served
from simulators.bundles import TASK, build_bundle
from simulators.updating_node import QUICK, Clock, Node
from understudy.cloud.releases import Publisher, Release, ReleaseRepository, ReleaseStore
from understudy.edge.parts import GoldenVector
from understudy.edge.updater import ProbationCounters, ProbationRules, UpdateSettings, UpdateWindow
from understudy.types.bundle import ENCODER, HEAD, MANIFEST, TOKENIZER
from understudy.types.release import Directive, UpdateState

PASSPHRASE = "correct horse"  # noqa: S105 - of keys that live for one test


@dataclass
class Bundles:
    """Three real bundles that differ in the head only, made once."""

    folder: Path
    ids: list[str]

    def path(self, number: int) -> Path:
        return self.folder / str(number)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    return Bundles(folder, [build_bundle(folder / str(n), seed=n) for n in range(3)])


@dataclass
class Plant:
    """Publisher, server and the fleet's present orders."""

    publisher: Publisher
    store: ReleaseStore
    shelf: Shelf
    address: str
    folder: Path
    root: bytes
    clock: Clock = field(default_factory=Clock)
    nodes: list[Node] = field(default_factory=list)

    def order(self, release: Release | None) -> None:
        """What every node hears from now on."""
        directive = Directive()
        if release is not None:
            directive = Directive(bundle=release.bundle, target=release.target)
        self.shelf.on_check_in = lambda _status: directive

    def node(self, settings: UpdateSettings = QUICK) -> Node:
        """A process of the one node of this test; another call is a restart."""
        node = Node(self.folder / "node", self.root, self.address, settings, self.clock)
        self.nodes.append(node)
        return node


@dataclass
class _Slow:
    """A store whose files take forty minutes each to begin."""

    store: ReleaseStore
    clock: Clock

    def metadata(self, name: str) -> bytes:
        return self.store.metadata(name)

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        self.clock.now += 2400
        return self.store.open_blob(sha256)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    import time

    repository = ReleaseRepository.create(tmp_path / "server", tmp_path / "keys", PASSPHRASE)
    publisher = repository.publisher(tmp_path / "keys", PASSPHRASE)
    store = repository.store()
    shelf = Shelf(store)
    with served(shelf) as address:
        made = Plant(publisher, store, shelf, address, tmp_path, store.trusted_root())
        made.clock.now = time.time()
        yield made
        for node in made.nodes:
            node.close()


@pytest.fixture
def installed(plant: Plant, bundles: Bundles) -> Plant:
    """A node that runs bundle 0, committed and reported."""
    plant.order(plant.publisher.publish(bundles.path(0), "stable"))
    node = plant.node()
    node.update()
    node.update()
    return plant


class TestTheWayOfAnUpdate:
    def test_a_published_student_ends_up_answering(self, plant: Plant, bundles: Bundles) -> None:
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        node = plant.node()

        assert UpdateState.IDLE is node.update()
        assert bundles.ids[0] == node.client.loaded
        assert "card" == node.client.answer()

    def test_every_state_is_passed_in_its_order(self, plant: Plant, bundles: Bundles) -> None:
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        node = plant.node()

        assert [
            UpdateState.CHECK, UpdateState.DOWNLOAD, UpdateState.VERIFY, UpdateState.STAGE,
            UpdateState.SELFTEST, UpdateState.ACTIVATE, UpdateState.PROBATION, UpdateState.COMMIT,
            UpdateState.IDLE,
        ] == [node.updater.step() for _ in range(9)]  # fmt: skip

    def test_success_is_reported_only_after_the_commit(
        self, plant: Plant, bundles: Bundles
    ) -> None:
        """A server that believed a node earlier would count students that never answered."""
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        node = plant.node()
        node.until(UpdateState.COMMIT)
        before = [(s.bundle, s.state) for s in plant.shelf.heard]
        node.updater.run_until_idle()
        node.updater.run_until_idle()

        assert [("", UpdateState.IDLE)] == before
        assert (bundles.ids[0], UpdateState.IDLE) == (
            plant.shelf.heard[-1].bundle,
            plant.shelf.heard[-1].state,
        )

    def test_unchanged_files_never_travel_again(self, installed: Plant, bundles: Bundles) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.shelf.asked.clear()
        node = installed.node()
        node.update()

        assert bundles.ids[1] == node.client.loaded
        manifest = json.loads((bundles.path(1) / MANIFEST).read_bytes())
        for name in (ENCODER, TOKENIZER):
            assert manifest["files"][name]["sha256"] not in installed.shelf.asked

    def test_a_changed_head_travels_as_a_delta(self, installed: Plant, bundles: Bundles) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.update()
        full = json.loads((bundles.path(1) / MANIFEST).read_bytes())["files"][HEAD]["sha256"]

        assert 1 <= node.updater.transfer.deltas_used
        assert full not in installed.shelf.asked

    def test_a_delta_that_was_tampered_with_costs_only_the_full_file(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        deltas = [
            file.hashes["sha256"]
            for path, file in installed.store._targets().signed.targets.items()
            if path.startswith("deltas/")
        ]
        for digest in deltas:
            installed.shelf.blobs_instead[digest] = b"nonsense"
        node = installed.node()
        node.update()

        assert len(deltas) > 0
        assert bundles.ids[1] == node.client.loaded
        assert 0 == node.updater.transfer.deltas_used

    def test_deltas_can_be_switched_off(self, installed: Plant, bundles: Bundles) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node(replace(QUICK, use_deltas=False))
        node.update()

        assert bundles.ids[1] == node.client.loaded
        assert 0 == node.updater.transfer.deltas_used

    def test_the_self_test_runs_in_a_child(self, plant: Plant, bundles: Bundles) -> None:
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        rules = replace(QUICK.selftest, in_child=True)
        node = plant.node(replace(QUICK, selftest=rules))
        node.update()

        assert bundles.ids[0] == node.client.loaded


class TestCutsAndBadServers:
    def test_a_download_goes_on_where_it_was_cut(self, plant: Plant, bundles: Bundles) -> None:
        """At most a tenth of the bytes may travel twice, whatever the link does."""
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        plant.shelf.cut_after = 700
        size = sum(f.stat().st_size for f in bundles.path(0).iterdir())
        node = plant.node()
        for _ in range(60):
            node = plant.node()
            if node.updater.run_until_idle() is UpdateState.IDLE and node.client.loaded:
                break
            plant.clock.now += node.updater.due_in_s()
            node.close()

        assert bundles.ids[0] == node.client.loaded
        assert plant.shelf.sent <= 1.1 * size

    def test_an_absent_server_is_asked_ever_less_often(self, installed: Plant) -> None:
        installed.shelf.down = True
        node = installed.node()
        node.updater.check_now()
        pauses = []
        for _ in range(4):
            node.updater.run_until_idle()
            pauses.append(node.updater.due_in_s())
            installed.clock.now += pauses[-1]

        assert pauses == sorted(set(pauses))

    def test_wrong_bytes_are_never_used(self, installed: Plant, bundles: Bundles) -> None:
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        installed.shelf.blobs_instead[release.bundle] = b"{}"
        node = installed.node()
        node.updater.check_now()
        for _ in range(6):
            node.updater.run_until_idle()
            installed.clock.now += node.updater.due_in_s()

        assert bundles.ids[0] == node.client.loaded
        assert "signed" in node.updater.record.failure

    def test_a_file_without_end_is_stopped_at_its_signed_length(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        installed.shelf.blobs_instead[release.bundle] = b"x" * (8 << 20)
        node = installed.node()
        node.update()

        assert node.updater.transfer.received < 1 << 17
        assert bundles.ids[0] == node.client.loaded

    def test_a_server_that_recovers_is_believed_again(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """Garbage on the way is no fault of the bundle: it is not denied for ever."""
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        installed.shelf.blobs_instead[release.bundle] = b"{}"
        node = installed.node()
        node.update()
        installed.shelf.blobs_instead.clear()
        node.until(UpdateState.COMMIT)

        assert bundles.ids[1] == node.client.loaded

    def test_a_file_the_server_lost_ends_the_try_and_is_reported(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        installed.store._blobs.remove(release.bundle)
        node = installed.node()
        node.update()
        node.clock.now += node.updater.due_in_s()
        node.updater.run_until_idle()

        assert bundles.ids[0] == node.client.loaded
        assert "holds no file" in installed.shelf.heard[-1].failure

    def test_an_expired_repository_stops_updates_not_answers(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.clock.now += 400 * 86_400
        node = installed.node()
        node.update()

        assert "expired" in node.updater.record.failure
        assert "card" == node.client.answer()


class TestBadStudents:
    def test_a_student_that_fails_its_golden_vectors_is_never_activated(
        self, installed: Plant, bundles: Bundles, tmp_path: Path
    ) -> None:
        wrong = [GoldenVector("card", (9.0, 9.0, 9.0))]
        build_bundle(tmp_path / "bad", golden=wrong, seed=7)
        release = installed.publisher.publish(tmp_path / "bad", "stable")
        installed.order(release)
        node = installed.node()
        node.update()
        node.clock.now += node.updater.due_in_s()
        node.updater.run_until_idle()

        assert bundles.ids[0] == node.client.loaded
        assert release.bundle == installed.shelf.heard[-1].failed_bundle
        assert "golden" in installed.shelf.heard[-1].failure

    def test_a_bundle_that_failed_is_not_tried_again(
        self, installed: Plant, tmp_path: Path
    ) -> None:
        build_bundle(tmp_path / "bad", golden=[GoldenVector("card", (9.0, 9.0, 9.0))], seed=7)
        installed.order(installed.publisher.publish(tmp_path / "bad", "stable"))
        node = installed.node()
        node.update()
        states = [node.updater.step() for _ in range(3)]
        for _ in range(3):
            installed.clock.now += node.updater.due_in_s()
            states += [node.updater.step(), node.updater.step()]

        assert UpdateState.DOWNLOAD not in states

    def test_the_publisher_can_ask_for_another_try(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.client.counters = ProbationCounters(requests=10, errors=3)
        node.update()
        assert bundles.ids[0] == node.client.loaded
        node.client.counters = ProbationCounters(requests=10)
        installed.order(installed.publisher.publish(bundles.path(1), "stable", retry=True))
        node.until(UpdateState.COMMIT)

        assert bundles.ids[1] == node.client.loaded

    def test_a_rollback_is_tried_where_its_bundle_failed_before(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """It is an order; a node that silently stays where it is would look like one that obeys."""
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.client.counters = ProbationCounters(requests=10, errors=3)
        node.update()
        node.client.counters = ProbationCounters(requests=10)
        installed.order(installed.publisher.publish(bundles.path(2), "stable"))
        node.until(UpdateState.COMMIT)
        assert bundles.ids[2] == node.client.loaded

        installed.order(installed.publisher.rollback(TASK, "stable"))
        node.until(UpdateState.COMMIT)

        assert bundles.ids[1] == node.client.loaded

    @pytest.mark.parametrize(
        ("counters", "word"),
        [
            (ProbationCounters(requests=300, errors=1), "errors"),
            (ProbationCounters(requests=300, invalid=90), "unusable"),
            (ProbationCounters(requests=300, latency_p95_ms=900.0), "95th"),
            (ProbationCounters(requests=300, escalated=295), "far more than expected"),
            (ProbationCounters(requests=300, compared=200, disagreed=190), "disagrees"),
            (ProbationCounters(requests=300, shadow_losses=30, shadow_wins=2), "champion"),
        ],
        ids=["errors", "unusable", "slow", "escalation-rate", "disagreement", "champion-better"],
    )
    def test_a_student_that_misbehaves_on_probation_is_taken_back(
        self, installed: Plant, bundles: Bundles, counters: ProbationCounters, word: str
    ) -> None:
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        node = installed.node()
        node.client.counters = ProbationCounters(
            requests=300, latency_p95_ms=1.0, compared=200, disagreed=4
        )
        node.until(UpdateState.ACTIVATE)
        node.client.counters = counters
        node.until(UpdateState.IDLE)
        node.updater.run_until_idle()

        assert [bundles.ids[1], bundles.ids[0]] == node.client.swaps[-2:]
        assert word in installed.shelf.heard[-1].failure
        assert release.bundle == installed.shelf.heard[-1].failed_bundle

    def test_a_student_that_kills_its_process_is_taken_back_at_the_fourth_start(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """No updater runs when the process dies at once: the start itself counts."""
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node(replace(QUICK, probation=ProbationRules()))
        node.until(UpdateState.PROBATION)
        loaded = []
        for _ in range(3):
            installed.clock.now += 10
            loaded.append(installed.node().client.loaded)

        assert [bundles.ids[1], bundles.ids[1], bundles.ids[0]] == loaded

    def test_workers_that_start_together_count_as_one_start(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """Eight workers of one web server are no crash loop."""
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.node(replace(QUICK, probation=ProbationRules())).until(UpdateState.PROBATION)
        installed.clock.now += 10

        assert {bundles.ids[1]} == {installed.node().client.loaded for _ in range(8)}

    def test_a_damaged_slot_falls_back_to_the_student_before(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.node().update()
        slot = json.loads((installed.folder / "node" / "current").read_bytes())["slot"]
        head = installed.folder / "node" / "slots" / slot / HEAD
        head.chmod(0o644)
        data = head.read_bytes()
        head.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        node = installed.node()

        assert bundles.ids[0] == node.client.loaded
        assert "card" == node.client.answer()

    def test_a_damaged_download_is_fetched_again_and_not_blamed_on_the_bundle(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        release = installed.publisher.publish(bundles.path(1), "stable")
        installed.order(release)
        node = installed.node()
        node.until(UpdateState.VERIFY)
        blob = installed.folder / "node" / "blobs" / release.bundle
        blob.chmod(0o644)
        blob.write_bytes(b"\x00" * blob.stat().st_size)
        node.until(UpdateState.COMMIT)

        assert bundles.ids[1] == node.client.loaded


class TestReleases:
    def test_an_operators_rollback_is_a_newer_release_of_the_older_bundle(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.update()
        back = installed.publisher.rollback(TASK, "stable", note="too many complaints")
        installed.order(back)
        node.update()

        assert bundles.ids[0] == node.client.loaded
        assert 3 == node.updater.record.committed

    def test_a_hint_at_an_older_release_is_refused(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """The directive is not signed: whoever holds the server could point anywhere with it."""
        first = installed.store.current(TASK, "stable")
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.update()
        installed.order(first)
        node.update()

        assert bundles.ids[1] == node.client.loaded
        assert "older" in node.updater.record.failure

    def test_a_newer_release_of_the_same_bundle_moves_nothing_but_the_floor(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.publisher.publish(bundles.path(1), "stable")
        installed.order(installed.publisher.rollback(TASK, "stable"))
        node = installed.node()
        swaps = len(node.client.swaps)
        node.update()

        assert swaps == len(node.client.swaps)
        assert 3 == json.loads((node.home / "current").read_bytes())["sequence"]

    def test_a_node_of_another_channel_is_not_reached(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "canary"))
        node = installed.node()
        node.update()

        assert bundles.ids[0] == node.client.loaded

    def test_a_release_withdrawn_while_it_was_on_the_way_is_dropped(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.node().until(UpdateState.DOWNLOAD)
        installed.publisher.rollback(TASK, "stable")
        node = installed.node()
        node.updater.run_until_idle()

        assert bundles.ids[0] == node.client.loaded
        assert "no release" in node.updater.record.failure

    def test_a_bundle_delivered_with_the_product_is_the_first_champion(
        self, plant: Plant, bundles: Bundles
    ) -> None:
        from understudy.edge.updater_state import StateFolder

        StateFolder(plant.folder / "node").adopt(bundles.path(2))
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        node = plant.node()
        before = node.client.loaded
        node.update()

        assert (bundles.ids[2], bundles.ids[0]) == (before, node.client.loaded)


class TestManners:
    def test_nothing_is_downloaded_outside_the_window(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        from datetime import datetime

        local = datetime.fromtimestamp(installed.clock.now).astimezone()
        start = f"{(local.hour + 2) % 24:02d}:00"
        window = UpdateWindow(start=start, end=f"{(local.hour + 3) % 24:02d}:00")
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node(replace(QUICK, window=window))
        sent = installed.shelf.sent
        node.update()
        assert (UpdateState.DOWNLOAD, sent) == (node.updater.record.state, installed.shelf.sent)
        node.until(UpdateState.COMMIT, steps=60)

        assert start == f"{datetime.fromtimestamp(node.clock.now).astimezone():%H}:00"
        assert bundles.ids[1] == node.client.loaded

    def test_a_window_that_closes_in_a_download_stops_it_and_what_came_is_kept(
        self, plant: Plant, bundles: Bundles
    ) -> None:
        from datetime import datetime

        local = datetime.fromtimestamp(plant.clock.now).astimezone()
        window = UpdateWindow(start=f"{local.hour:02d}:00", end=f"{(local.hour + 1) % 24:02d}:00")
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        plant.shelf.source = _Slow(plant.store, plant.clock)
        size = sum(f.stat().st_size for f in bundles.path(0).iterdir())
        node = plant.node(replace(QUICK, window=window))
        node.update()
        stopped = (node.updater.record.state, 0 < plant.shelf.sent < size, node.client.loaded)
        node.until(UpdateState.COMMIT, steps=400)

        assert (UpdateState.DOWNLOAD, True, "") == stopped
        assert bundles.ids[0] == node.client.loaded
        assert plant.shelf.sent <= 1.1 * size

    def test_the_cloud_is_heard_while_a_student_is_on_probation(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """A revoked certificate must reach a node that waits for traffic."""
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node(replace(QUICK, probation=ProbationRules()))
        node.until(UpdateState.PROBATION)
        heard = len(installed.shelf.heard)
        for _ in range(3):
            installed.clock.now += 1000
            node.updater.step()

        assert {UpdateState.PROBATION} == {s.state for s in installed.shelf.heard[heard:]}
        assert len(installed.shelf.heard) >= heard + 2

    def test_a_node_that_is_closed_in_a_download_keeps_what_it_has(
        self, plant: Plant, bundles: Bundles
    ) -> None:
        plant.order(plant.publisher.publish(bundles.path(0), "stable"))
        node = plant.node()
        node.until(UpdateState.DOWNLOAD)
        node.updater.close()
        node.updater.step()
        parts = list((node.home / "blobs").glob("*.part"))

        assert UpdateState.DOWNLOAD is node.updater.record.state
        assert parts or list((node.home / "blobs").iterdir())


class TestSeveralProcesses:
    def test_one_process_leads_and_another_follows_its_pointer(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """The lock belongs to a process, so the follower has to be another one."""
        program = (
            "import sys, time; from pathlib import Path; "
            "from simulators.updating_node import Node; "
            "node = Node(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3]); "
            "node.updater.step(); print(node.client.loaded, flush=True); sys.stdin.readline(); "
            "state = node.updater.step(); "
            "print(node.client.loaded, state.value, len(node.client.directives), flush=True); "
            "node.close()"
        )
        leader = installed.node()
        leader.updater.step()
        (installed.folder / "root.json").write_bytes(installed.root)
        command: list[str | Path] = [
            sys.executable,
            "-c",
            program,
            leader.home,
            installed.folder / "root.json",
        ]
        with subprocess.Popen(
            [*command, installed.address],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as follower:
            assert follower.stdout
            before = follower.stdout.readline().split()
            installed.order(installed.publisher.publish(bundles.path(1), "stable"))
            leader.until(UpdateState.COMMIT)
            after = follower.communicate("go\n", timeout=60)[0].split()

        assert [bundles.ids[0]] == before
        assert [bundles.ids[1], "idle", "1"] == after


class TestStolenServer:
    """The thief has the server's disk and keys, and answers in its place."""

    def test_it_cannot_make_a_node_load_what_the_publisher_did_not_sign(
        self, installed: Plant, tmp_path: Path, bundles: Bundles
    ) -> None:
        from tuf.api.metadata import Metadata, TargetFile

        from understudy.cloud.releases.keys import FolderKeyRing
        from understudy.cloud.releases.roles import RoleFiles, sign

        evil = build_bundle(tmp_path / "evil", seed=66)
        server = installed.folder / "server"
        for file in (tmp_path / "evil").iterdir():
            data = file.read_bytes()
            (server / "blobs" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        online = FolderKeyRing(server / "online", None)
        roles = RoleFiles(server / "metadata")
        targets = installed.store._targets().signed
        path = f"bundles/{TASK}/{evil}/{MANIFEST}"
        data = (tmp_path / "evil" / MANIFEST).read_bytes()
        honest = next(t for p, t in targets.targets.items() if p.startswith("bundles/"))
        forged = TargetFile(len(data), {"sha256": evil}, path, honest.unrecognized_fields)
        targets.targets[path] = forged
        targets.version += 1
        signers = online.signers("snapshot") + online.signers("timestamp")
        roles.write("targets", sign(Metadata(targets), signers))
        _sign_online(installed, targets.version)
        installed.shelf.on_check_in = lambda _s: Directive(bundle=evil, target=path)
        node = installed.node()
        node.update()

        assert bundles.ids[0] == node.client.loaded
        assert evil not in node.updater.record.denied
        assert not node.updater.record.target.endswith(path)

    def test_it_cannot_take_a_node_back_to_an_older_release(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        old_targets = installed.store._targets().signed.version
        first = installed.store.current(TASK, "stable")
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        node = installed.node()
        node.update()
        _sign_online(installed, old_targets)
        installed.order(first)
        node.update()

        assert bundles.ids[1] == node.client.loaded
        assert "older" in node.updater.record.failure or "version" in node.updater.record.failure

    def test_its_disk_holds_no_key_that_signs_targets_or_root(self, installed: Plant) -> None:
        from understudy.cloud.releases.keys import FolderKeyRing

        root = json.loads(installed.root)["signed"]
        online = FolderKeyRing(installed.folder / "server" / "online", None)
        held = {
            key.keyid
            for role in ("root", "targets", "snapshot", "timestamp")
            for key in online.keys(role)
        }

        assert not held & {*root["roles"]["root"]["keyids"], *root["roles"]["targets"]["keyids"]}
        assert not list((installed.folder / "server").rglob("*targets*.pem"))

    def test_what_it_withholds_is_noticed_when_the_signatures_run_out(
        self, installed: Plant, bundles: Bundles
    ) -> None:
        """A freeze cannot be prevented, only bounded: seven days by default."""
        frozen = installed.store.metadata("timestamp.json")
        installed.shelf.metadata_instead["timestamp.json"] = frozen
        installed.order(installed.publisher.publish(bundles.path(1), "stable"))
        installed.clock.now += 8 * 86_400
        node = installed.node()
        node.update()

        assert "expired" in node.updater.record.failure


def _sign_online(plant: Plant, targets_version: int) -> None:
    """Signs snapshot and timestamp for any targets at all, as only a thief would."""
    from tuf.api.metadata import Metadata, MetaFile, Snapshot

    from understudy.cloud.releases.keys import FolderKeyRing
    from understudy.cloud.releases.roles import RoleFiles, sign

    server = plant.folder / "server"
    online, roles = FolderKeyRing(server / "online", None), RoleFiles(server / "metadata")
    root = roles.root().signed
    snapshot, timestamp = roles.snapshot(root), roles.timestamp(root)
    assert snapshot is not None
    assert timestamp is not None
    old: Snapshot = snapshot.signed
    old.version += 1
    old.meta["targets.json"] = MetaFile(targets_version)
    roles.write("snapshot", sign(Metadata(old), online.signers("snapshot")))
    data = roles.read(f"{old.version}.snapshot.json")
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile.from_data(old.version, data, ["sha256"])
    roles.write("timestamp", sign(timestamp, online.signers("timestamp")))
    forged = roles.read("timestamp.json")
    plant.shelf.metadata_instead["timestamp.json"] = forged
