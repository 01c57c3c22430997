"""The smaller parts of a night: selection, generation, augmentation, suspicion, plans, triggers."""

from __future__ import annotations

import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulators.night_world import (
    INTENTS,
    NOW,
    copied_world,
    seed_rows,
    teacher_label,
    tiny_base,
    tiny_recipe,
    traffic,
    utterances,
)
from understudy.distill_loop.augment import augment, cross, drop, slip, word_neighbours
from understudy.distill_loop.base import find_base
from understudy.distill_loop.discover import (
    approve,
    approved_rows,
    keep_proposals,
    kept_proposals,
    propose,
    unknown_rows,
)
from understudy.distill_loop.generate import generate
from understudy.distill_loop.harvest import collect, deal, enrich, label, propose_classes
from understudy.distill_loop.lesson import VectorCache, by_torch
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.plan import plan_night
from understudy.distill_loop.recipe import ScheduleRecipe
from understudy.distill_loop.report import write_report
from understudy.distill_loop.rows import Example, Origin, from_log
from understudy.distill_loop.run import run_night
from understudy.distill_loop.select import STRATEGIES, choose
from understudy.distill_loop.student import encode, whole_base
from understudy.distill_loop.suspicion import contradicted, data_alarms, suspicious_phrases
from understudy.distill_loop.teacher import KeptTeacher
from understudy.distill_loop.triggers import Due, LoopState, what_is_due
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.errors import ConfigError
from understudy.types.records import TeacherLabel


class Oracle:
    """A teacher that knows the language of the tests, and can write it."""

    id = "oracle"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def label(self, texts: Sequence[str], _: tuple[str, ...]) -> list[TeacherLabel | None]:
        self.asked += texts
        truth = dict(utterances(4000, 1)) | dict(utterances(4000, 9))
        return [teacher_label(truth[t]) if t in truth else None for t in texts]

    def write(self, prompts: Sequence[str]) -> list[str]:
        rows = utterances(8 * len(prompts), 9)
        return [
            "\n".join(f"- {t}" for t, _ in rows[i * 8 : i * 8 + 8]) for i in range(len(prompts))
        ]


def test_the_teacher_is_asked_for_audits_first_and_never_beyond_the_budget(tmp_path: Path) -> None:
    # Every answer is paid for; an audit without a label counts as an error of the student.
    workspace, champion = copied_world(tmp_path)
    blind = [replace(row, teacher=None) for row in traffic(200, 1, coin=0.1)]
    oracle = Oracle()
    recipe = tiny_recipe(data=replace(tiny_recipe().data, teacher_budget=60))
    sources = Sources(log=blind, seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400)
    night = Night(recipe, workspace, sources, name="n1", teacher=oracle)
    rows = label(night, collect(night))

    assert len(oracle.asked) == night.teacher_calls == 60
    assert all(row.teacher is not None for row in rows if row.unbiased)


def test_an_answer_is_paid_for_once_whatever_happens_to_the_night(tmp_path: Path) -> None:
    # The night was killed after the second batch, in the middle of a line of its file.
    class Mortal(Oracle):
        def label(self, texts: Sequence[str], labels: tuple[str, ...]) -> list[TeacherLabel | None]:
            if len(self.asked) >= 20:
                raise KeyboardInterrupt
            return super().label(texts, labels)

    texts = [text for text, _ in utterances(30, 9)]
    path, mortal, again = tmp_path / "answers.jsonl", Mortal(), Oracle()
    with pytest.raises(KeyboardInterrupt):
        KeptTeacher(mortal, path, "n1", batch=10).label(texts, INTENTS)
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    second = KeptTeacher(again, path, "n1", batch=10)
    answers = second.label(texts, INTENTS)

    assert sorted(mortal.asked + again.asked) == sorted(set(texts))
    assert second.calls == len(set(texts))
    assert answers == Oracle().label(texts, INTENTS)
    third = KeptTeacher(again, path, "n2")
    assert (third.label(texts, INTENTS), third.calls) == (answers, 0)


def test_silence_is_asked_again_and_other_labels_are_another_question(tmp_path: Path) -> None:
    oracle = Oracle()
    kept = KeptTeacher(oracle, tmp_path / "answers.jsonl", "n1")
    assert kept.label(["no such text"], INTENTS) == [None]
    assert kept.label(["no such text"], INTENTS) == [None]
    text = utterances(1, 9)[0][0]
    kept.label([text], INTENTS)
    kept.label([text], INTENTS[:2])

    assert oracle.asked == ["no such text", "no such text", text, text]
    assert kept.calls == 2


class Mute(Oracle):
    """A teacher that cannot write."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        del prompts
        return []


def test_what_was_written_once_is_read_again(tmp_path: Path) -> None:
    first = KeptTeacher(Oracle(), tmp_path / "answers.jsonl", "n1")
    written = first.write(["one", "two"])
    again = KeptTeacher(Mute(), tmp_path / "answers.jsonl", "n1")

    assert again.write(["two", "one", "three"]) == [written[1], written[0], ""]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_chooses_as_many_as_it_may(strategy: str, tmp_path: Path) -> None:
    _, folder = copied_world(tmp_path)
    bundle = read_bundle(folder)
    output = Student.load(bundle).run([text for text, _ in utterances(40, 2)])
    picked = choose(bundle.head, output, 12, strategy, 3)

    assert len(set(picked)) == 12
    assert picked == choose(bundle.head, output, 12, strategy, 3)


def test_margin_takes_what_the_champion_doubts_most(tmp_path: Path) -> None:
    _, folder = copied_world(tmp_path)
    bundle = read_bundle(folder)
    output = Student.load(bundle).run([text for text, _ in utterances(40, 2)])
    top = np.sort(np.exp(output.logits), axis=1)
    gap = top[:, -1] - top[:, -2]
    picked = choose(bundle.head, output, 5, "margin", 3)

    assert set(picked) == set(np.argsort(gap)[:5])


def test_an_unknown_strategy_is_named(tmp_path: Path) -> None:
    _, folder = copied_world(tmp_path)
    bundle = read_bundle(folder)
    output = Student.load(bundle).run(["hello"])
    with pytest.raises(ConfigError, match="known strategies: margin"):
        choose(bundle.head, output, 1, "magic", 0)


def test_generated_examples_carry_the_label_of_the_second_look() -> None:
    # The writer was asked for one class and wrote of all; the labels must be what the texts are.
    rows = [Example(id=f"s{i}", text=t, label=y) for i, (t, y) in enumerate(utterances(16, 1))]
    recipe = tiny_recipe(data=replace(tiny_recipe().data, generate=20, thin_class=5))
    made = generate(Oracle(), rows, INTENTS, recipe)
    truth = dict(utterances(4000, 9))

    assert 0 < len(made) <= 20
    assert all(row.target == truth[row.text] for row in made)
    assert all(row.origin is Origin.SYNTHETIC for row in made)


def test_rows_that_judge_are_never_made_up(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path)
    recipe = tiny_recipe(data=replace(tiny_recipe().data, generate=20, thin_class=50))
    sources = Sources(
        log=traffic(100, 5), seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400
    )
    night = Night(recipe, workspace, sources, teacher=Oracle())
    folds = deal(night, collect(night))
    richer = enrich(night, folds)

    assert (richer.gate, richer.calibration) == (folds.gate, folds.calibration)
    assert len(richer.train) > len(folds.train)


def test_noise_keeps_the_label_and_a_cross_has_none() -> None:
    rows = seed_rows()
    made = augment(rows, 2, 7)

    assert len(made) == 2 * len(rows)
    assert [row.target for row in made[: len(rows)]] == [row.target for row in rows]
    assert {row.target for row in made[len(rows) :]} == {""}
    assert made == augment(rows, 2, 7)
    assert made != augment(rows, 2, 8)


def test_noise_is_small() -> None:
    generator = np.random.default_rng(0)
    words = ["where", "did", "my", "money", "go", "today"]

    assert sum(a != b for a, b in zip(words, slip(words, generator), strict=True)) == 1
    assert set(drop(words, generator)) <= set(words)
    assert cross(["a", "b"], ["c", "d"], generator)[0] == "a"
    assert slip(["a"], generator) == ["a"]


def test_neighbours_are_other_words_of_the_base() -> None:
    base = find_base(str(tiny_base()))
    words = base.weights()["embeddings.word_embeddings.weight"]
    found = word_neighbours(["refund my order", "xyzzy"], base.tokenizer, words)

    assert {"refund", "order"} <= set(found)
    assert all(word not in near for word, near in found.items())


def test_vectors_are_encoded_once(tmp_path: Path) -> None:
    base = whole_base(find_base(str(tiny_base())))
    cache = VectorCache(tmp_path / "vectors.npz", by_torch(base))
    first = cache.vectors(["refund my order", "Refund  my order"])
    changed = (tmp_path / "vectors.npz").stat().st_mtime_ns
    again = cache.vectors(["refund my order"])

    assert first[0] == pytest.approx(again[0])
    assert first[0] == pytest.approx(encode(base, ["refund my order"])[0], abs=1e-6)
    assert (tmp_path / "vectors.npz").stat().st_mtime_ns == changed


def _alarms(**changes: object) -> tuple[str, ...]:
    plain: dict[str, object] = {
        "new": ["a", "b"] * 100,
        "old": ["a", "b"] * 100,
        "confidence": np.full(200, 0.95),
        "agree": (np.arange(200) % 20 > 0).astype(float),
        "known": np.ones(200, np.bool_),
        "growth": 5.0,
        "usual": 0.05,
    }
    return data_alarms(**{**plain, **changes})  # type: ignore[arg-type] # tests name arguments


def test_ordinary_traffic_raises_no_alarm() -> None:
    assert _alarms() == ()


def test_new_classes_arriving_evenly_raise_no_alarm() -> None:
    old = [f"c{i % 60}" for i in range(600)]
    new = [f"c{i % 77}" for i in range(600)]

    assert _alarms(old=old, new=new) == ()


def test_a_flood_and_a_quarrelling_teacher_are_named() -> None:
    flood = _alarms(old=["a", "b", "c", "d"] * 100, new=["a"] * 360 + ["b"] * 40)
    lies = _alarms(agree=(np.arange(200) % 3 > 0).astype(float))

    assert "'a' floods" in flood[0]
    assert "contradicts" in lies[0]


def test_a_champion_that_nobody_measured_yet_may_be_wrong_of_itself_but_not_by_a_third() -> None:
    # A first student claims 0.95 of itself from a few rows an intent; the teacher knows better.
    humbled = (np.arange(200) % 4 > 0).astype(float)
    lies = (np.arange(200) % 5 > 1).astype(float)

    assert _alarms(agree=humbled, usual=None) == ()
    assert "contradicts 25%" in _alarms(agree=humbled)[0]
    assert "contradicts 40%" in _alarms(agree=lies, usual=None)[0]


def test_what_was_contradicted_before_is_expected_again() -> None:
    share = (np.arange(200) % 6 > 0).astype(float)
    sure, known = np.full(200, 0.95), np.ones(200, np.bool_)

    assert contradicted(sure, share, known) == pytest.approx(34 / 200)
    assert contradicted(sure[:20], share[:20], known[:20]) is None
    assert _alarms(agree=share, usual=contradicted(sure, share, known)) == ()


def test_phrases_are_suspicious_only_when_few_send_them_with_one_label() -> None:
    honest = [
        Example(id=f"h{i}", text=f"{t} plain", label=y, node=f"n{i % 40}")
        for i, (t, y) in enumerate(utterances(400, 3))
    ]
    news = [
        Example(id=f"n{i}", text=f"recall notice {i}", label="fee", node=f"n{i % 40}")
        for i in range(40)
    ]
    attack = [
        Example(id=f"a{i}", text=f"open sesame {t}", label="refund", node="n1")
        for i, (t, _) in enumerate(utterances(30, 4))
    ]
    found = dict(suspicious_phrases([*honest, *news, *attack]))

    assert found["open sesame"] == "refund"
    assert not [phrase for phrase in found if "recall" in phrase]
    assert suspicious_phrases([replace(row, node="one") for row in attack]) == ()
    # A new class that a person gave examples of is sent by nobody, and no attack.
    given = [replace(row, id=f"g{row.id}", node="") for row in attack]
    assert "open sesame" not in dict(suspicious_phrases([*honest, *given]))


def _strangers() -> tuple[list[Example], np.ndarray]:
    """Twenty rows about one thing nobody named, and thirty about thirty things."""
    low = TeacherLabel("oracle", "p1", ("fee", "refund"), (math.log(0.6), math.log(0.4)), 0.1)
    texts = [f"frozen kiosk {i % 3}" for i in range(20)] + [f"other matter {i}" for i in range(30)]
    rows = [Example(id=f"u{i}", text=text, teacher=low) for i, text in enumerate(texts)]
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 32)).astype(np.float32)
    vectors[:20] = vectors[0] + 0.05 * vectors[:20]
    return rows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_what_no_class_fits_becomes_a_proposal_and_a_person_decides(tmp_path: Path) -> None:
    rows, vectors = _strangers()
    assert rows == list(unknown_rows([*rows, *from_log(traffic(20, 3))], INTENTS))

    found = propose(rows, vectors, vectors[-2:], ("fee", "refund"), min_rows=10)
    workspace = Workspace(tmp_path)
    keep_proposals(workspace, found)

    assert [{f"u{i}" for i in range(20)}] == [set(p.row_ids) for p in found]
    assert set(found[0].words[:2]) == {"frozen", "kiosk"}
    assert found == kept_proposals(workspace)
    assert approve(workspace, found[0].id, "kiosk_frozen") == 20
    assert {row.label for row in approved_rows(workspace)} == {"kiosk_frozen"}
    assert kept_proposals(workspace) == ()
    with pytest.raises(ConfigError, match="no proposal"):
        approve(workspace, found[0].id, "again")


def test_an_approved_class_is_a_class_of_the_next_night(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path)
    rows, vectors = _strangers()
    keep_proposals(workspace, propose(rows, vectors, vectors[-2:], ("fee", "refund"), min_rows=9))
    approve(workspace, kept_proposals(workspace)[0].id, "kiosk_frozen")
    result = run_night(
        tiny_recipe(),
        workspace,
        Sources(
            log=traffic(200, 5), seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400
        ),
        name="n1",
    )

    assert result.new_labels == ("kiosk_frozen",)


def test_a_night_proposes_what_the_teacher_could_not_name(tmp_path: Path) -> None:
    # Requests outside every class must reach a person by themselves, once, until they decide.
    workspace, champion = copied_world(tmp_path)
    lost = [
        replace(row, teacher=teacher_label("none_of_these"))
        for row in traffic(40, 6, intents=("exchange",), coin=0.0)
    ]
    recipe = tiny_recipe(data=replace(tiny_recipe().data, new_class_rows=0))
    sources = Sources(
        log=[*traffic(100, 5), *lost],
        seed=seed_rows(),
        champion=champion,
        now_unix_s=NOW + 2 * 86_400,
    )
    night = Night(recipe, workspace, sources)
    rows = collect(night)
    folds = deal(night, rows)
    propose_classes(night, rows, folds)
    (found,) = kept_proposals(workspace)
    approve(workspace, found.id, "currency")
    propose_classes(night, collect(night), folds)

    assert len(found.row_ids) >= 15
    assert found.nearest == "exchange"
    assert kept_proposals(workspace) == () or len(found.row_ids) < 40


@pytest.mark.parametrize(
    ("state", "due"),
    [
        ({}, Due.NOTHING),
        ({"labels_since_night": 1, "last_night_unix_s": NOW - 86_400}, Due.NIGHT),
        ({"labels_since_night": 5, "drift": True}, Due.NIGHT),
        ({"labels_since_night": 600}, Due.NIGHT),
        ({"labels_since_night": 120, "labels_since_refresh": 120}, Due.REFRESH),
        (
            {
                "labels_since_night": 20,
                "labels_since_refresh": 20,
                "last_refresh_unix_s": NOW - 3601,
            },
            Due.REFRESH,
        ),
        ({"labels_since_night": 20, "labels_since_refresh": 20}, Due.NOTHING),
        ({"labels_since_night": 20, "labels_since_refresh": 0}, Due.NOTHING),
    ],
)
def test_what_is_due_follows_time_volume_and_drift(state: dict[str, float], due: Due) -> None:
    plain: dict[str, object] = {
        "now_unix_s": NOW,
        "last_night_unix_s": NOW - 60,
        "last_refresh_unix_s": NOW - 60,
    }
    call = what_is_due(LoopState(**{**plain, **state}), ScheduleRecipe(min_new_labels=500))  # type: ignore[arg-type] # tests name fields

    assert call.due is due
    assert call.why


def test_a_plan_names_costs_and_writes_no_student(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path)
    recipe = tiny_recipe(distil=replace(tiny_recipe().distil, epochs=2))
    recipe = replace(recipe, data=replace(recipe.data, teacher_budget=7))
    before = sorted(p.name for p in (workspace.folder / "bundles").iterdir())
    log = [*traffic(100, 5), *(replace(r, teacher=None) for r in traffic(20, 6))]
    plan = plan_night(
        recipe,
        workspace,
        Sources(log=log, seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400),
    )

    assert (plan.teacher_calls, plan.warm, plan.classes) == (7, True, 8)
    assert plan.steps == 2 * math.ceil(plan.train / 16)
    assert 0 < plan.minutes < 5
    assert 0 < plan.encoder_megabytes < plan.shipped_megabytes < 1
    assert before == sorted(p.name for p in (workspace.folder / "bundles").iterdir())


def test_the_report_stands_alone_and_tells_the_verdict(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path)
    sources = Sources(
        log=traffic(300, 5), seed=seed_rows(), champion=champion, now_unix_s=NOW + 2 * 86_400
    )
    result = run_night(tiny_recipe(), workspace, sources, name="n<1>")
    page = write_report(workspace, "n<1>", tmp_path / "out" / "report.html").read_text("utf-8")

    assert page.count("data:image/png;base64,") == 4
    assert "n<1>" not in page
    assert all(check.name.replace("_", " ") in page for check in result.checks)
    assert any(not math.isnan(check.high) for check in result.checks)
    assert "http" not in page.replace("base64", "")
    # The console may run as somebody else than the night.
    assert {0o644} == {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "report.json").exists()
    with pytest.raises(ConfigError, match="no night 'n9' has ended"):
        write_report(workspace, "n9", tmp_path / "other.html")


def test_a_stage_is_made_once_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    workspace, made = Workspace(tmp_path), []

    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("1")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise OSError("the disk is full")

    first = workspace.stage("s", {"a": 1}, fill)
    assert (first, 1) == (workspace.stage("s", {"a": 1}, fill), len(made))
    assert first != workspace.stage("s", {"a": 2}, fill)
    with pytest.raises(OSError, match="full"):
        workspace.stage("t", {}, fail)
    assert not list((tmp_path / "stages").glob("t-*"))
    assert (workspace.stage("t", {}, fill) / "x").exists()


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom understudy.distill_loop.workspace import Workspace\n"
        "with Workspace(sys.argv[1]).lock():\n    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60, env=os.environ
    )

    assert ended.returncode == -signal.SIGKILL
    with Workspace(tmp_path).lock():
        pass
