"""What of the log may certify a student: reliable rows of today's traffic, slice by slice."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from simulators.night_world import (
    INTENTS,
    NOW,
    copied_world,
    logged,
    seed_rows,
    teacher_label,
    tiny_recipe,
    traffic,
)
from understudy.distill_loop import proving
from understudy.distill_loop.candidate import answer, certificate_of, from_bundle
from understudy.distill_loop.evidence import Ruling, Verdict
from understudy.distill_loop.examining import split_news
from understudy.distill_loop.harvest import collect
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.recipe import SplitRecipe
from understudy.distill_loop.rows import Example, from_log
from understudy.distill_loop.split import split
from understudy.edge.bundle import encode_certificate, read_bundle
from understudy.edge.student import Student
from understudy.types.bundle import CERTIFICATE
from understudy.types.contract import Certificate, Contract
from understudy.types.records import LoggedRow, TeacherLabel

LOOSE = Contract(max_quality_loss=0.3)


def in_order(rows: list[LoggedRow]) -> list[LoggedRow]:
    return [replace(row, sequence=place) for place, row in enumerate(rows, start=1)]


def proved(folder: Path, rows: tuple[Example, ...]) -> Certificate:
    """What rows prove about the small world's champion."""
    bundle = read_bundle(folder)
    return certificate_of(from_bundle(bundle), answer(Student.load(bundle), rows), rows, LOOSE)


def test_after_a_change_only_what_came_since_certifies() -> None:
    # A certificate is about traffic like the audited one, and before the alarm it was another.
    log = in_order(traffic(300, 3, coin=1.0))
    before, after = (
        split(from_log(log), SplitRecipe()),
        split(from_log(log, changes={"": 200}), SplitRecipe()),
    )
    late = {row.record.event_id for row in log[200:]}

    assert {row.id for row in after.certificate} == {
        row.id for row in before.certificate if row.id in late
    }
    assert before.train == after.train
    assert [row.id for row in before.gate] == [row.id for row in after.gate]


def test_a_night_is_told_when_traffic_changed(tmp_path: Path) -> None:
    workspace, champion = copied_world(tmp_path)
    log = in_order([*traffic(50, 1, day=1), *traffic(50, 2, day=2)])
    sources = Sources(
        log=log, seed=seed_rows(), champion=champion, now_unix_s=NOW + 3 * 86_400, changes={"": 50}
    )
    night = Night(tiny_recipe(), workspace, sources)
    rows = [row for row in collect(night) if row.id.startswith(("1-", "2-"))]

    assert {("1", False), ("2", True)} == {(row.id[0], row.current) for row in rows}
    assert NOW + 86_400.0 == night.changed_unix_s


def test_a_certificate_about_other_traffic_is_no_reason_to_keep_it(tmp_path: Path) -> None:
    # It kept more, of requests that no longer come: the champion is renewed all the same.
    workspace, champion = copied_world(tmp_path)
    log = in_order(traffic(400, 1, coin=1.0))
    sources = Sources(log=log, seed=seed_rows(), champion=champion, now_unix_s=NOW + 3 * 86_400)
    night = Night(replace(tiny_recipe(), contract=LOOSE), workspace, sources)
    folds = split(collect(night), night.recipe.split)
    bundle = read_bundle(champion)
    generous = replace(
        bundle.certificate, certified=True, threshold=0.1, keep_rate=1.0, issued_unix_s=NOW
    )
    files = {**bundle.files, CERTIFICATE: encode_certificate(generous)}
    night.__dict__["champion"] = replace(bundle, files=files)
    keep = Verdict(Ruling.KEEP, ())
    kept = proving.choose(night, champion, keep, folds)
    night.changed_unix_s = NOW + 86_400.0
    renewed = proving.choose(night, champion, keep, folds)

    assert (champion, False) == kept
    assert renewed[1]
    assert read_bundle(renewed[0]).certificate.certified


def test_rows_on_which_the_teacher_contradicts_itself_are_set_aside_and_counted(
    tmp_path: Path,
) -> None:
    # They are no errors of the student, and the certificate says how many there were.
    _, champion = copied_world(tmp_path)
    log = traffic(200, 3, coin=1.0)
    text = log[0].record.text
    disputed = [logged(f"d{n}", text, INTENTS[n % 2], coin=True) for n in range(20)]
    vague = [
        replace(logged(f"v{n}", f"what {n}", INTENTS[0], coin=True), teacher=_vague())
        for n in range(5)
    ]
    plain = proved(champion, from_log(log[1:]))
    found = proved(champion, from_log([*log, *disputed, *vague]))
    aside = 20 + 5 + sum(row.record.text == text for row in log)

    assert (0, aside) == (plain.unreliable_rows, found.unreliable_rows)
    assert 225 - aside == found.rows


def test_each_slice_of_the_log_is_certified(tmp_path: Path) -> None:
    _, champion = copied_world(tmp_path)
    log = [
        replace(row, record=replace(row.record, slice_name="odd" if n % 2 else ""))
        for n, row in enumerate(traffic(300, 3, coin=1.0))
    ]

    assert [("odd", 150)] == [(s.name, s.rows) for s in proved(champion, from_log(log)).slices]
    since = proved(champion, from_log(in_order(log), changes={"odd": 200}))
    # Rows from before its alarm count for the whole, no longer for the slice.
    assert ([("odd", 50)], 300) == ([(s.name, s.rows) for s in since.slices], since.rows)


def test_the_certificate_says_how_many_labels_the_student_cannot_say(tmp_path: Path) -> None:
    # The live watch compares with it.
    _, champion = copied_world(tmp_path)
    log = traffic(300, 3, coin=1.0)
    new = [
        replace(row, teacher=teacher_label("a new one")) if _chance(row) < 0.1 else row
        for row in log
    ]
    known, strange = proved(champion, from_log(log)), proved(champion, from_log(new))

    assert known.certified
    assert known.new_label_bound < strange.new_label_bound < 1.0


def _chance(row: LoggedRow) -> float:
    return hashlib.sha256(row.record.event_id.encode()).digest()[0] / 256


def _vague() -> TeacherLabel:
    return replace(teacher_label(INTENTS[0]), label_mass=0.1)


def test_what_is_usual_is_what_was_usual_since_the_change() -> None:
    # Else the classes that arrived with it would look like a flood, night after night.
    log = in_order([*traffic(60, 1, day=1), *traffic(60, 2, day=2), *traffic(60, 3, day=3)])
    folds = split(from_log(log, changes={"": 60}), SplitRecipe())
    champion = SimpleNamespace(
        candidate=SimpleNamespace(certificate=SimpleNamespace(issued_unix_s=NOW + 2 * 86_400.0))
    )
    news = split_news(folds, champion)  # type: ignore[arg-type] # all of it that is asked

    assert ({"2"}, {"3"}) == ({r.id[0] for r in news.old}, {r.id[0] for r in news.new})


def test_no_row_is_lost_on_the_way() -> None:
    rows = from_log(traffic(20, 3), changes={"": 10**10})

    assert np.array([not row.current and row.reliable for row in rows]).all()
    assert 20 == len(rows)
