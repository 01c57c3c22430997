"""Kills a node with SIGKILL in the middle of an update, over and over, and looks at what is left.

Every trial: a node that runs one student updates to another; it is killed before its k-th change of
the disk, or at a random moment; then it starts again. It must start with one of the two students,
whole, and must end with the new one; and of the bytes that travelled, few may travel twice.

    python -m simulators.killing --kills 60 --folder /tmp/x
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from simulators.bundles import build_bundle
from simulators.updating_node import QUICK, RunningNode
from understudy.cloud.releases import ReleaseRepository, ReleaseStore
from understudy.edge.updater import Updater, boot
from understudy.edge.updater_state import StateFolder
from understudy.types.release import Directive, NodeStatus, UpdateState

_PASSPHRASE = "kept for minutes"  # noqa: S105
_PIECE = 8192
_CHANGES = ("fsync", "replace", "link", "unlink", "mkdir", "rmdir", "fchmod")


@dataclass
class Report:
    """What a campaign found."""

    trials: int = 0
    kills: int = 0
    killed_after_state: dict[str, int] = field(default_factory=dict)
    started_with_old: int = 0
    started_with_new: int = 0
    could_not_answer: int = 0
    mixed: int = 0
    never_finished: int = 0
    bytes_needed: int = 0
    bytes_sent: int = 0
    worst_ratio: float = 0.0
    changes_of_disk: int = 0


@dataclass
class Scene:
    """Two bundles, a repository that offers the second, and a node that runs the first."""

    folder: Path
    old: str
    new: str
    target: str
    size: int
    store: ReleaseStore

    @property
    def home(self) -> Path:
        return self.folder / "node"

    @property
    def sent_log(self) -> Path:
        return self.folder / "sent.log"

    def reset(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.folder / "fresh", self.home)
        self.sent_log.write_bytes(b"")


class LocalLink:
    """The cloud in this process: the real store, no network, bytes counted on disk."""

    def __init__(self, scene: Scene, before_piece: Callable[[], None]) -> None:
        self._scene, self._before_piece = scene, before_piece

    def metadata(self, name: str, timeout_s: float) -> bytes:  # noqa: ARG002
        return self._scene.store.metadata(name)

    def blob(self, sha256: str, offset: int, timeout_s: float) -> Iterator[bytes]:  # noqa: ARG002
        file, _ = self._scene.store.open_blob(sha256)
        with file, self._scene.sent_log.open("ab", buffering=0) as log:
            file.seek(offset)
            while piece := file.read(_PIECE):
                self._before_piece()
                log.write(b"%d\n" % len(piece))
                yield piece

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:  # noqa: ARG002
        return Directive(bundle=self._scene.new, target=self._scene.target)


def build(folder: Path) -> Scene:
    """Makes the scene; the bundles carry ballast so that a download has a middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (0, 1):
        ballast = random.Random(number).randbytes(400_000)  # noqa: S311
        build_bundle(folder / f"bundle{number}", seed=number, replace={"ballast.bin": ballast})
    repository = ReleaseRepository.create(folder / "server", folder / "keys", _PASSPHRASE)
    publisher = repository.publisher(folder / "keys", _PASSPHRASE)
    first = publisher.publish(folder / "bundle0", "stable")
    second = publisher.publish(folder / "bundle1", "stable")
    store = repository.store()
    store.refresh()
    StateFolder(folder / "fresh").adopt(folder / "bundle0")
    size = sum(
        (folder / "bundle1" / name).stat().st_size
        for name in ("manifest.json", "ballast.bin", "head.npz")
    )
    return Scene(folder, first.bundle, second.bundle, second.target, size, store)


def update(scene: Scene, before_change: Callable[[], None]) -> None:
    """What a node's process does: boots, answers, updates until it has the new student."""
    client = RunningNode()
    bundle = boot(scene.home)
    if bundle is None:
        raise SystemExit(3)
    client.swap(bundle)
    if client.answer() != "card":
        raise SystemExit(4)
    (scene.folder / "started").write_text(client.loaded)
    root = scene.store.trusted_root()
    link = LocalLink(scene, before_change)
    updater = Updater(scene.home, root, link, client, QUICK, chance=lambda: 0.0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        updater.check_now()
        state = updater.step()
        (scene.folder / "state").write_text(state.value)
        if state is UpdateState.IDLE and client.loaded == scene.new and client.answer() == "card":
            return
        time.sleep(min(0.05, updater.due_in_s()))
    raise SystemExit(5)


def forked(work: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Runs `work` in a forked child; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except SystemExit as leaving:
            os._exit(int(leaving.code or 0))
        except BaseException:  # noqa: BLE001 - a child must not run the parent's code
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def hooked(work: Callable[[Callable[[], None]], None], before: Callable[[], None]) -> None:
    """Calls `before` ahead of every change that the child makes to the disk."""

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            before()
            return original(*args, **named)

        return call

    for name in _CHANGES:
        setattr(os, name, wrapped(getattr(os, name)))
    work(before)


def count_changes(scene: Scene) -> int:
    """How many changes an update makes that nobody disturbs."""
    scene.reset()
    counted = scene.folder / "changes"

    def work() -> None:
        seen = [0]

        def before() -> None:
            seen[0] += 1

        hooked(lambda hook: update(scene, hook), before)
        with counted.open("w") as file:
            file.write(str(seen[0]))

    if forked(work) != 0:
        raise RuntimeError("an undisturbed update failed")
    return int(counted.read_text())


def dying_at(scene: Scene, change: int) -> Callable[[], None]:
    """A process that kills itself before its `change`-th change of the disk."""

    def work() -> None:
        left = [change]

        def before() -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        hooked(lambda hook: update(scene, hook), before)

    return work


def judge(scene: Scene, report: Report) -> None:
    """Starts the node again, undisturbed, and looks at what it starts with and ends with."""
    code = forked(lambda: update(scene, lambda: None))
    if code in {3, 4}:
        report.could_not_answer += 1
        return
    started = (scene.folder / "started").read_text()
    report.started_with_old += started == scene.old
    report.started_with_new += started == scene.new
    report.mixed += started not in {scene.old, scene.new}
    report.never_finished += code != 0


def campaign(folder: Path, kills: int, seed: int, tell: Callable[[int], None]) -> Report:
    """Kills at every change of the disk in turn, then at random, until there were so many kills."""
    scene, chance = build(folder), random.Random(seed)  # noqa: S311
    report = Report(changes_of_disk=count_changes(scene))
    scene.reset()
    start = time.monotonic()
    forked(lambda: update(scene, lambda: None))
    usual_s = time.monotonic() - start
    changes = list(range(1, report.changes_of_disk + 1))
    if kills < 2 * len(changes):
        changes = sorted(chance.sample(changes, max(1, kills * 2 // 3)))
    while report.kills < kills:
        scene.reset()
        for work, after_s in _next_kills(scene, changes, chance, usual_s):
            report.kills += forked(work, after_s) == -signal.SIGKILL
        state = (scene.folder / "state").read_text()
        report.killed_after_state[state] = report.killed_after_state.get(state, 0) + 1
        judge(scene, report)
        sent = sum(int(line) for line in scene.sent_log.read_text().split())
        report.trials += 1
        report.bytes_needed += scene.size
        report.bytes_sent += sent
        report.worst_ratio = max(report.worst_ratio, sent / scene.size)
        tell(report.kills)
    return report


Kill = tuple[Callable[[], None], float | None]


def _next_kills(
    scene: Scene, changes: list[int], chance: random.Random, usual_s: float
) -> list[Kill]:
    """Each change in its turn; then two in a row at random changes, or one at a random moment."""
    if changes:
        return [(dying_at(scene, changes.pop(0)), None)]
    if chance.random() < 0.5:
        return [(dying_at(scene, chance.randint(1, 120)), None) for _ in range(2)]
    return [(lambda: update(scene, lambda: None), chance.uniform(0.0, 0.7 * usual_s))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()

    def tell(done: int) -> None:
        if done % 50 == 0:
            sys.stderr.write(f"{done} of {args.kills}\n")

    sys.stdout.write(json.dumps(asdict(campaign(args.folder, args.kills, args.seed, tell))))


if __name__ == "__main__":
    main()
