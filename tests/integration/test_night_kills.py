"""A night killed at every stage, once after another, ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.night_world import NOW, copied_world, seed_rows, tiny_recipe, traffic
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.run import NightResult, run_night
from understudy.distill_loop.teacher import NightTeacher
from understudy.distill_loop.workspace import Workspace
from understudy.types.records import LoggedRow, TeacherLabel

STAGES = (
    "collect", "label", "curate", "enrich", "build", "distil", "export", "compress", "head",
    "calibrate", "certify", "gate", "write",
)  # fmt: skip


class Writing:
    """A teacher that writes down every text it was asked for, where a SIGKILL cannot reach."""

    id = "oracle"

    def __init__(self, path: Path) -> None:
        self.path = path

    def label(self, texts: list[str], _: tuple[str, ...]) -> list[TeacherLabel | None]:
        truth = {row.record.text: row.teacher for row in traffic(40, 9)}
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in texts)
            file.flush()
            os.fsync(file.fileno())
        return [truth[text] for text in texts]

    def write(self, _: list[str]) -> list[str]:
        return []


def rows() -> list[LoggedRow]:
    return [*traffic(120, 5), *(replace(row, teacher=None) for row in traffic(40, 9))]


def recipe(base: str) -> Recipe:
    plain = tiny_recipe()
    return replace(
        plain,
        student=replace(plain.student, base=base),
        distil=replace(plain.distil, epochs=1),
        data=replace(plain.data, teacher_budget=40),
    )


def night(
    base: str, workspace: Path, champion: Path, stage: str = "", done: float = 0.0
) -> NightResult:
    """The night, which kills its own process when a stage has come so far."""

    def told(now: str, share: float) -> None:
        if now == stage and share >= done:
            os.kill(os.getpid(), signal.SIGKILL)

    def publish(directory: Path, _: str) -> None:
        if stage == "publish":
            os.kill(os.getpid(), signal.SIGKILL)
        with (workspace.parent / "offered").open("a") as file:
            file.write(f"{directory.name}\n")

    teacher: NightTeacher = Writing(workspace.parent / "asked")  # type: ignore[assignment] # lists do
    sources = Sources(
        log=rows(), seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400.0
    )
    return run_night(
        recipe(base),
        Workspace(workspace),
        sources,
        name="n1",
        teacher=teacher,
        publish=publish,
        progress=told,
    )


def main(base: str, workspace: str, champion: str) -> None:
    """Kills one child a stage, at its begin and at its end, and prints how each of them ended."""
    ends: dict[str, int] = {}
    points = [(stage, done) for stage in STAGES for done in (0.0, 0.5)]
    for stage, done in [*points, ("publish", 0.0)]:
        child = os.fork()
        if child == 0:
            try:
                night(base, Path(workspace), Path(champion), stage, done)
            finally:
                os._exit(7)
        ends[f"{stage} {done}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write(json.dumps(ends))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_night_killed_at_every_stage_is_the_night_that_was_left_alone(tmp_path: Path) -> None:
    # Twenty-seven SIGKILLs in a row; half-way through a stage for those that tell how far they are.
    workspace, champion = copied_world(tmp_path / "killed")
    base = tiny_recipe().student.base
    tests = Path(__file__).parents[1]
    call = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import test_night_kills as kills; kills.main(*sys.argv[3:])\n"
    )
    words = [str(tests), str(Path(__file__).parent), base, str(workspace.folder), str(champion)]
    ended = subprocess.run(
        [sys.executable, "-c", call, *words], check=False, timeout=1200, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()
    ends = json.loads(ended.stdout)
    assert set(ends.values()) == {-signal.SIGKILL}, ends
    assert len(ends) == 2 * len(STAGES) + 1

    resumed = night(base, workspace.folder, champion)
    other, untouched = copied_world(tmp_path / "calm")
    calm = night(base, other.folder, untouched)

    assert resumed.challenger == calm.challenger
    assert resumed.teacher_calls == calm.teacher_calls > 0
    asked, offered = (
        (workspace.folder.parent / name).read_text("utf-8").splitlines()
        for name in ("asked", "offered")
    )
    assert len(asked) == len(set(asked))
    assert offered == [resumed.bundle]
    assert not [path for path in workspace.folder.rglob("*.unfinished") if path.is_dir()]
