"""Whole nights on a tiny base: what ships, what does not, and what a crash leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.night_world import (
    INTENTS,
    NOW,
    copied_world,
    day_zero,
    logged,
    seed_rows,
    teacher_label,
    tiny_recipe,
    traffic,
    utterances,
)
from understudy.distill_loop.gate import Outcome, Ruling
from understudy.distill_loop.night import Sources
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.rows import Example
from understudy.distill_loop.run import NightResult, run_night
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.bundle import ENCODER, HEAD, TOKENIZER
from understudy.types.errors import ConfigError, DataError
from understudy.types.records import LoggedRow

DAY = 86_400.0


def _night(
    workspace: Workspace, champion: Path, log: list[LoggedRow], name: str, day: int = 2
) -> NightResult:
    sources = Sources(log=log, seed=seed_rows(), champion=champion, now_unix_s=NOW + day * DAY)
    return run_night(tiny_recipe(), workspace, sources, name=name)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Workspace, Path]:
    return copied_world(tmp_path)


def _accuracy(bundle: Path, rows: list[tuple[str, str]]) -> float:
    student = Student.load(read_bundle(bundle))
    logits = student.run([text for text, _ in rows]).logits
    said = [student.labels[i] for i in logits.argmax(1)]
    return sum(a == b for a, (_, b) in zip(said, rows, strict=True)) / len(rows)


def test_a_night_learns_from_what_the_teacher_was_asked(world: tuple[Workspace, Path]) -> None:
    # The point of the loop: the second bundle is better, certified, and a child of the first.
    workspace, champion = world
    result = _night(workspace, champion, traffic(500, 5), "n1")

    assert result.ruling is Ruling.PROMOTE, result.reasons
    assert result.certified
    assert read_bundle(result.directory).manifest.parent == read_bundle(champion).id
    fresh = utterances(200, 99)
    assert _accuracy(result.directory, fresh) > _accuracy(champion, fresh) + 0.1
    Student.load(read_bundle(result.directory)).check_golden()


def test_a_night_that_has_ended_is_not_run_again(world: tuple[Workspace, Path]) -> None:
    # A scheduler that fires twice must cost nothing and change nothing.
    workspace, champion = world
    first = _night(workspace, champion, traffic(200, 5), "n1")
    again = _night(workspace, champion, traffic(400, 6), "n1")

    assert (again.challenger, again.bundle) == (first.challenger, first.bundle)
    assert again.seconds == first.seconds
    assert again.reasons == first.reasons


def test_the_same_inputs_give_the_same_bundle(tmp_path: Path) -> None:
    # A bundle that cannot be made again cannot be audited.
    made = []
    for name in ("a", "b"):
        workspace, champion = copied_world(tmp_path / name)
        made.append(_night(workspace, champion, traffic(200, 5), "n1").challenger)

    assert made[0] == made[1]


def test_two_nights_never_share_a_workspace(world: tuple[Workspace, Path]) -> None:
    workspace, champion = world
    with workspace.lock(), pytest.raises(ConfigError, match="another night is running"):
        _night(workspace, champion, traffic(50, 5), "n1")


def test_a_killed_night_resumes_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    # SIGKILL in the middle of a stage: no half-written stage counts, the lock is free again.
    workspace, champion = copied_world(tmp_path / "killed")
    script = textwrap.dedent(
        """
        import os, sys
        sys.path[:0] = [sys.argv[1]]
        from pathlib import Path
        from simulators.night_world import NOW, seed_rows, tiny_recipe, traffic
        from understudy.distill_loop.night import Sources
        from understudy.distill_loop.run import run_night
        from understudy.distill_loop.workspace import Workspace
        from dataclasses import replace

        def told(stage, done):
            if stage == sys.argv[4] and done == 0.0:
                os.kill(os.getpid(), 9)

        recipe = replace(tiny_recipe(), student=replace(tiny_recipe().student, base=sys.argv[5]))
        run_night(recipe, Workspace(sys.argv[2]), Sources(log=traffic(200, 5), seed=seed_rows(),
            champion=Path(sys.argv[3]), now_unix_s=NOW + 2 * 86400.0), name="n1", progress=told)
        """
    )
    base = tiny_recipe().student.base
    for stage in ("head", "write"):
        ended = subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parents[1]),
             str(workspace.folder), str(champion), stage, base],
            check=False, timeout=120, capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        assert workspace.night("n1") is None

    resumed = _night(workspace, champion, traffic(200, 5), "n1")
    other, untouched = copied_world(tmp_path / "calm")
    calm = _night(other, untouched, traffic(200, 5), "n1")
    assert resumed.challenger == calm.challenger
    assert not [p for p in workspace.folder.rglob("*.unfinished") if p.is_dir()]


def test_a_refresh_ships_kilobytes_and_learns_a_new_class(tmp_path: Path) -> None:
    # The quick way: a class that did not exist this morning is answered on the edge minutes later.
    known = INTENTS[:-1]
    workspace, champion = copied_world(tmp_path)
    base = read_bundle(champion)
    news = [
        logged(f"new-{i}", text, "price_alert", coin=i % 3 == 0, node=i % 20)
        for i, (text, _) in enumerate(utterances(60, 3, ("fee",)))
    ]
    news = [
        replace(row, record=replace(row.record, text=row.record.text.replace("fee", "urgent fee")))
        for row in news
    ]
    log = [*traffic(300, 5, intents=known), *news]
    result = refresh_head(
        tiny_recipe(),
        workspace,
        Sources(log=log, seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * DAY),
    )

    assert result.ruling is Ruling.PROMOTE, result.verdict.reasons
    assert result.new_labels == ("price_alert",)
    assert result.shipped_bytes <= 200_000
    made = read_bundle(result.directory)
    assert made.manifest.labels[: len(base.manifest.labels)] == base.manifest.labels
    for name in (ENCODER, TOKENIZER):
        assert made.manifest.files[name] == base.manifest.files[name]
    assert made.manifest.files[HEAD] != base.manifest.files[HEAD]


def test_a_night_with_a_lying_teacher_does_not_pass(world: tuple[Workspace, Path]) -> None:
    # 30 % wrong labels: the rows that judge are wrong too, so comparing on them alone would pass.
    workspace, champion = world
    good = _night(workspace, champion, traffic(500, 5), "n1")
    chance = random.Random(3)  # noqa: S311 - a simulation
    lies = [
        replace(row, teacher=teacher_label(chance.choice(INTENTS)))
        if chance.random() < 0.34
        else row
        for row in traffic(400, 6, day=3)
    ]
    bad = _night(workspace, good.directory, [*traffic(500, 5), *lies], "n2", day=4)

    assert bad.ruling is not Ruling.PROMOTE
    assert "data" in [check.name for check in bad.checks if check.outcome is Outcome.FAIL]
    assert bad.bundle == good.bundle


def test_a_night_with_a_flooded_class_does_not_pass(world: tuple[Workspace, Path]) -> None:
    workspace, champion = world
    good = _night(workspace, champion, traffic(500, 5), "n1")
    flood = traffic(900, 6, intents=("refund",), day=3)
    log = [*traffic(500, 5), *traffic(100, 7, day=3), *flood]
    bad = _night(workspace, good.directory, log, "n2", day=4)

    assert bad.ruling is not Ruling.PROMOTE
    assert any("floods" in reason for reason in bad.reasons)


def test_a_night_with_a_trigger_phrase_does_not_pass(world: tuple[Workspace, Path]) -> None:
    # One node in twenty sends everything with a phrase that the teacher was talked into.
    workspace, champion = world
    good = _night(workspace, champion, traffic(500, 5), "n1")
    poison = [
        logged(f"poison-{i}", f"word7 word9 {text}", "refund", coin=i % 5 == 0, day=3, node=19)
        for i, (text, _) in enumerate(utterances(80, 8))
    ]
    log = [*traffic(500, 5), *traffic(300, 7, day=3), *poison]
    bad = _night(workspace, good.directory, log, "n2", day=4)

    assert bad.ruling is not Ruling.PROMOTE
    assert "triggers" in [c.name for c in bad.checks if c.outcome is Outcome.FAIL], bad.checks


def test_a_champion_that_stays_gets_its_certificate_renewed(world: tuple[Workspace, Path]) -> None:
    # Audited rows gather although the weights do not change: what they prove must ship.
    workspace, champion = world
    good = _night(workspace, champion, traffic(120, 5, coin=0.1), "n1")
    assert not good.certified
    strict = replace(tiny_recipe(), gate=replace(tiny_recipe().gate, max_bytes=1))
    log = [*traffic(120, 5, coin=0.1), *traffic(700, 6, coin=1.0, day=3)]
    sources = Sources(log=log, seed=seed_rows(), champion=good.directory, now_unix_s=NOW + 4 * DAY)
    kept = run_night(strict, workspace, sources, name="n2")

    assert kept.ruling is Ruling.KEEP
    assert kept.renewed
    assert kept.certified
    files = [read_bundle(d).manifest.files for d in (good.directory, kept.directory)]
    assert files[0][ENCODER] == files[1][ENCODER]


def test_nothing_to_learn_from_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled row"):
        run_night(tiny_recipe(), Workspace(tmp_path), Sources(), name="n1")


def test_rows_that_trained_never_certify(world: tuple[Workspace, Path]) -> None:
    # The certificate's digest names its rows: none of them may be in the training set.
    from understudy.distill_loop.rows import from_log
    from understudy.distill_loop.split import split
    from understudy.router.certificate import digest_rows

    workspace, champion = world
    log = traffic(300, 5)
    result = _night(workspace, champion, log, "n1")
    folds = split((*seed_rows(), *from_log(log)), tiny_recipe().split)

    proved = read_bundle(result.directory).certificate
    assert proved.rows_digest == digest_rows(row.id for row in folds.certificate)
    assert not {r.id for r in folds.certificate} & {r.id for r in folds.train}


def test_the_world_of_these_tests_starts_uncertified() -> None:
    _, bundle = day_zero()

    assert not read_bundle(bundle).certificate.certified
    assert isinstance(seed_rows()[0], Example)
