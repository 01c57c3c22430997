"""Rows: what counts as unbiased, which fold they fall in, what is merged or left out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulators.night_world import logged, seed_rows, teacher_label, traffic
from understudy.distill_loop.clean import dedup_near, label_issues
from understudy.distill_loop.curate import (
    cap_nodes,
    dedup_exact,
    redact,
    redact_rows,
    unique_ids,
    within,
)
from understudy.distill_loop.harvest import settle
from understudy.distill_loop.recipe import DataRecipe, Recipe, SplitRecipe
from understudy.distill_loop.replay import refill
from understudy.distill_loop.rows import Example, Origin, from_log
from understudy.distill_loop.split import Fold, fold_of, split


def test_only_the_coin_makes_a_row_unbiased() -> None:
    # Escalations are chosen by the student: certified on them, any student would look bad or good.
    rows = from_log([logged("a", "x", "fee", coin=True), logged("b", "y", "fee")])

    assert [True, False] == [row.unbiased for row in rows]


def test_rows_of_days_without_a_certificate_count_only_if_the_caller_says_so() -> None:
    # With a budget or a cache not every request of such a day was escalated.
    row = logged("a", "x", "fee")
    row = replace(row, record=replace(row.record, threshold=math.inf))

    assert not from_log([row])[0].unbiased
    assert from_log([row], uncertified_unbiased=True)[0].unbiased


def test_an_event_that_was_sent_twice_is_one_row_and_keeps_its_label() -> None:
    rows = from_log([logged("a", "x", None), logged("a", "x", "fee"), logged("a", "x", None)])

    assert ["fee"] == [row.target for row in rows]


def test_a_row_keeps_its_fold_for_ever() -> None:
    # Rows of last night's training must not certify tonight's student.
    rows = from_log(traffic(200, 3))
    first = {row.id: fold_of(row, SplitRecipe()) for row in rows}

    assert first == {row.id: fold_of(row, SplitRecipe()) for row in reversed(rows)}
    assert first != {row.id: fold_of(row, SplitRecipe(salt="other")) for row in rows}


def test_unbiased_rows_go_to_certificate_and_calibration_first() -> None:
    rows = from_log(traffic(600, 3, coin=1.0))
    folds = split(rows, SplitRecipe())

    assert folds.train == ()
    assert set(folds.certificate) == set(folds.gate)
    assert 0.6 < len(folds.certificate) / 600 < 0.8


def test_seed_rows_always_train_and_never_judge() -> None:
    folds = split(seed_rows(), SplitRecipe())

    assert len(folds.train) == len(seed_rows())
    assert folds.gate == folds.calibration == ()


def test_a_training_row_whose_text_also_judges_does_not_train() -> None:
    rows = from_log(traffic(400, 3))
    folds = split(rows, SplitRecipe())
    judged = {row.text for row in folds.gate}

    assert not judged & {row.text for row in folds.train}


def test_a_logged_row_without_a_label_does_not_train() -> None:
    # It may get its label tomorrow and certify then.
    rows = from_log([logged(f"e{i}", f"text {i}", None) for i in range(40)])

    assert split(rows, SplitRecipe()).train == ()
    assert {fold_of(row, SplitRecipe()) for row in rows} == set(Fold)


def test_a_repeated_text_counts_once_and_weighs_more() -> None:
    rows = [
        Example(id="1", text="Where is my card", teacher=teacher_label("fee")),
        Example(id="2", text="where is  my CARD", label="card_lost"),
    ]
    (kept,) = dedup_exact(rows)

    assert ("card_lost", 2.0) == (kept.target, kept.weight)


def test_near_twins_merge_only_within_their_label() -> None:
    long = "please tell me where my new debit card is because it has not arrived for two weeks"
    rows = [
        Example(id="1", text=long, label="a"),
        Example(id="2", text=long + " now", label="a"),
        Example(id="3", text=long + " ok", label="b"),
        Example(id="4", text="something else entirely about exchange rates", label="a"),
    ]

    assert ["1", "3", "4"] == [row.id for row in dedup_near(rows, 0.7)]


def test_the_first_of_equal_ids_stays_in_its_place() -> None:
    rows = [Example(id="1", text="a"), Example(id="2", text="b"), Example(id="1", text="c")]

    assert ["a", "b"] == [row.text for row in unique_ids(rows)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail me at jo.do@example.org please", "mail me at <email> please"),
        ("see https://example.org/a?b=1 now", "see <url> now"),
        ("my iban is DE89 3704 0044 0532 0130 00 ok", "my iban is <iban> ok"),
        ("call +49 170 1234567", "call <number>"),
        ("i paid 12 euros in 2024", "i paid 12 euros in 2024"),
    ],
)
def test_personal_numbers_and_addresses_are_redacted(text: str, expected: str) -> None:
    assert expected == redact(text)


def test_a_teacher_s_reasons_are_redacted_like_the_text_they_quote() -> None:
    said = replace(teacher_label("fee"), rationale="asks why 4929 1234 5678 was charged")
    (row,) = redact_rows([Example(id="a", text="hello", teacher=said)])

    assert row.teacher is not None
    assert row.teacher.rationale == "asks why <number> was charged"
    assert row.teacher.label == "fee"


def test_a_row_that_a_person_named_judges_by_that_name() -> None:
    # The teacher had no word for it then; its "none of these" would punish the right answer.
    rows = (Example(id="k1", text="kiosk", teacher=teacher_label("none_of_these"), unbiased=True),)
    named = (Example(id="approved-k1", text="kiosk", label="kiosk_frozen", origin=Origin.FILE),)
    (row,) = settle(rows, named)

    assert (row.target, row.unbiased) == ("kiosk_frozen", True)
    assert settle(rows, ()) == rows


def test_old_rows_fall_out_of_the_window_but_seed_rows_do_not() -> None:
    rows = [
        Example(id="old", text="a", origin=Origin.ESCALATION, created_unix_s=10.0),
        Example(id="new", text="a", origin=Origin.ESCALATION, created_unix_s=9 * 86_400.0),
        Example(id="seed", text="a", created_unix_s=10.0),
    ]

    assert ["new", "seed"] == [row.id for row in within(rows, 10 * 86_400.0, 5.0)]


def test_one_node_cannot_teach_the_fleet_alone() -> None:
    rows = [
        Example(id=f"{n}-{i}", text=f"{n} {i}", node=f"n{n}")
        for n, count in ((0, 80), (1, 10), (2, 10))
        for i in range(count)
    ]
    capped = cap_nodes(rows, 0.4)
    weights = {n: sum(r.weight for r in capped if r.node == n) for n in ("n0", "n1", "n2")}

    assert weights == pytest.approx({"n0": 40.0, "n1": 10.0, "n2": 10.0})


def test_the_replay_buffer_keeps_rare_classes_and_rows_of_people() -> None:
    rows = [
        Example(id=f"c{i}", text=f"c{i}", teacher=teacher_label("fee"), origin=Origin.ESCALATION)
        for i in range(300)
    ]
    rows += [
        Example(id=f"r{i}", text=f"r{i}", teacher=teacher_label("refund"), origin=Origin.AUDIT)
        for i in range(5)
    ]
    gold = [Example(id=f"g{i}", text=f"g{i}", label="fee", origin=Origin.REPLAY) for i in range(70)]
    kept = refill([*rows, *gold], DataRecipe(replay_per_class=50, replay_rows=60), 1)

    assert {row.id for row in kept} >= {f"r{i}" for i in range(5)} | {f"g{i}" for i in range(70)}
    assert len(kept) == 75
    assert kept == refill([*reversed(gold), *reversed(rows)], DataRecipe(
        replay_per_class=50, replay_rows=60), 1)  # fmt: skip


def test_wrong_labels_are_found_by_heads_that_never_saw_them() -> None:
    # Recall at k of planted flips: confident learning must find most of them, worst first.
    import numpy as np

    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 16))
    truth = np.arange(240) % 4
    vectors = (centres[truth] + 0.35 * generator.normal(size=(240, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flipped = set(range(0, 240, 10))
    labels = np.array([(y + 1) % 4 if i in flipped else y for i, y in enumerate(truth)])
    share, found = label_issues(vectors, labels, Recipe())

    assert len(flipped & set(found[:24])) >= 0.8 * len(flipped)
    assert 0.05 < share < 0.2
