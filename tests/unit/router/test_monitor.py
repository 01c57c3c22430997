"""The watch over one bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from understudy.router.certificate import certify
from understudy.router.evidence import RowUse
from understudy.router.monitor import REMEMBERED, Advice, Cause, LiveMonitor, Standing, Watch
from understudy.types.contract import (
    MOST_SLICES,
    Contract,
    OnUncertified,
    SliceCertificate,
)
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import DataError
from understudy.types.release import Directive, SliceOrder
from unit.router.rows import label, row

WATCH = Watch("bundle", Contract(max_quality_loss=0.05), 0.5, run_length=2000.0)

LEGAL = SliceCertificate(name="legal", threshold=0.7, rows=300, inherited=False)
SLICED = replace(WATCH, slices=(LEGAL, replace(LEGAL, name="billing")))
NEWS = replace(WATCH, labels=frozenset({"student", "teacher"}), new_label_bound=0.1)


def fed(
    monitor: LiveMonitor, rows: int, *, wrong_every: int = 0, start: int = 0, **changes: Any
) -> LiveMonitor:
    for n in range(start, start + rows):
        agree = not wrong_every or n % wrong_every > 0
        monitor.observe(row(str(n), agree=agree, **changes))
    return monitor


def alarmed(watch: Watch = WATCH) -> LiveMonitor:
    """A watch that has just heard of drift: every third of its surest answers was wrong."""
    monitor = LiveMonitor(watch)
    for n in range(300):
        monitor.observe(row(str(n), confidence=1.0, agree=n % 3 > 0))
        if monitor.alarmed:
            return monitor
    raise AssertionError(repr(monitor))


def test_the_nights_certificate_stands_until_something_speaks_against_it() -> None:
    monitor = LiveMonitor(WATCH)

    assert Standing.NIGHT is monitor.standing
    assert Advice() == monitor.advice()
    assert Standing.LIVE is fed(monitor, 200).standing
    assert Standing.NONE is LiveMonitor(replace(WATCH, threshold=NEVER_KEEP)).standing


def test_drift_withdraws_the_certificate_and_asks_for_a_night() -> None:
    monitor = alarmed()

    assert Standing.REVOKED is monitor.standing
    assert Advice(True, NEVER_KEEP, WATCH.rates.ceiling, True) == monitor.advice()
    directive = monitor.advice().apply(Directive(bundle="next"))
    assert ("next", True, NEVER_KEEP) == (
        directive.bundle,
        directive.certificate_revoked,
        directive.threshold_floor,
    )


def test_who_chose_to_serve_is_served_after_an_alarm_too() -> None:
    serving = replace(WATCH, contract=replace(WATCH.contract, on_uncertified=OnUncertified.SERVE))

    assert Advice(True, 0.0, 0.1, True) == alarmed(serving).advice()


def test_the_floor_falls_to_what_is_proved_since_the_alarm() -> None:
    monitor = alarmed()
    everything = {"threshold": NEVER_KEEP, "kind": RecordKind.ESCALATION}
    for n in range(1000, 1400):
        sure = n % 2 == 0
        monitor.observe(
            row(str(n), confidence=0.95 if sure else 0.6, agree=sure or n % 4 == 1, **everything)  # type: ignore[arg-type]
        )
    found = monitor.advice()

    assert found.certificate_revoked
    assert 0.6 < found.threshold_floor <= 0.95


def test_a_withdrawn_certificate_comes_back_when_it_is_proved_anew() -> None:
    # Neither the certificate nor the alarm is latched.
    monitor = alarmed()
    fed(monitor, 400, start=1000)

    assert Standing.LIVE is monitor.standing
    assert (Advice(), 1) == (monitor.advice(), monitor.whole.alarms)


def test_a_calm_audit_rate_is_passed_on_until_the_alarm() -> None:
    assert 0.03 == LiveMonitor(WATCH).advice(0.03).audit_rate
    assert 0.1 == alarmed().advice(0.03).audit_rate


def test_a_duplicate_counts_once() -> None:
    # A spool sends again whatever was not acknowledged.
    monitor = LiveMonitor(WATCH)

    assert RowUse.COUNTED is monitor.observe(row("1"))
    assert RowUse.DUPLICATE is monitor.observe(row("1"))
    assert fed(LiveMonitor(WATCH), 1, start=1).live.to_dict() == monitor.live.to_dict()


def test_a_late_label_counts_when_it_comes() -> None:
    monitor = LiveMonitor(WATCH)

    assert RowUse.WAITING is monitor.observe(row("1", agree=None))
    assert RowUse.COUNTED is monitor.observe(row("1"))


def test_a_label_that_never_comes_is_an_error() -> None:
    given_up, wrong = LiveMonitor(WATCH), LiveMonitor(WATCH)
    given_up.observe(row("1", agree=None), given_up=True)
    wrong.observe(row("1", agree=False))

    assert given_up.live.to_dict() == wrong.live.to_dict()
    assert RowUse.DUPLICATE is given_up.observe(row("1"))


def test_neither_order_nor_clocks_matter_to_the_proof() -> None:
    # Labels come late and out of order, and edge clocks are wrong by years.
    forth, back = LiveMonitor(WATCH), LiveMonitor(WATCH)
    rows = [row(str(n), agree=n % 25 > 0, created_unix_s=float(n)) for n in range(100)]
    for one in rows:
        forth.observe(one)
    for one in reversed(rows):
        skewed = replace(one.record, created_unix_s=-1e9 * one.record.created_unix_s)
        back.observe(replace(one, record=skewed, logged_unix_s=7.0, sequence=3))

    assert forth.live.log_evidence == pytest.approx(back.live.log_evidence)


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        pytest.param({"bundle": "other"}, RowUse.OTHER_BUNDLE, id="other-bundle"),
        pytest.param({"kind": RecordKind.DEGRADED}, RowUse.DEGRADED, id="degraded"),
        pytest.param({"coin": False}, RowUse.INCONSISTENT, id="inconsistent"),
        pytest.param({"teacher": label("x", mass=0.1)}, RowUse.UNRELIABLE, id="low-mass"),
    ],
)
def test_rows_that_prove_nothing_are_counted_apart(changes: dict[str, Any], use: RowUse) -> None:
    monitor = LiveMonitor(WATCH)

    assert use is monitor.observe(row("1", **changes))
    assert 1 == monitor.counts[use]
    assert 0.0 == monitor.live.log_wealth.max()


def test_a_teacher_that_contradicts_itself_does_not_speak_against_the_student() -> None:
    monitor = LiveMonitor(WATCH)

    assert RowUse.UNRELIABLE is monitor.observe(row("1", agree=False), earlier="student")
    assert 1 == monitor.counts["contradiction"]


def test_the_memory_for_duplicates_is_bounded() -> None:
    monitor = LiveMonitor(WATCH)
    for n in range(REMEMBERED + 10):
        monitor.observe(row(str(n), teacher=label("x", mass=0.1)))

    assert len(monitor.to_dict()["seen"]) == REMEMBERED


def test_a_watch_goes_on_after_a_restart() -> None:
    # Through JSON, as a gateway keeps it; the next row finds the same state.
    monitor = fed(LiveMonitor(WATCH), 250, wrong_every=12)
    restored = LiveMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())), WATCH)

    assert monitor.to_dict() == restored.to_dict()
    assert repr(monitor) == repr(restored)
    assert {RowUse.DUPLICATE} == {m.observe(row("3")) for m in (monitor, restored)}
    assert fed(monitor, 50, start=500).to_dict() == fed(restored, 50, start=500).to_dict()


def test_a_watch_without_certificate_survives_a_restart_too() -> None:
    watch = replace(WATCH, threshold=NEVER_KEEP)
    plain = json.loads(json.dumps(LiveMonitor(watch).to_dict(), allow_nan=False))

    assert Standing.NONE is LiveMonitor.from_dict(plain, watch).standing


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"format": 99}, id="format"),
        pytest.param({"whole": {}}, id="damaged"),
        pytest.param({"news": []}, id="news"),
        pytest.param({"cause": "weather"}, id="cause"),
        pytest.param({"counts": None}, id="wrong-type"),
    ],
)
def test_a_damaged_watch_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="start a new one"):
        LiveMonitor.from_dict({**LiveMonitor(WATCH).to_dict(), **change}, WATCH)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"bundle": "other"}, id="bundle"),
        pytest.param({"threshold": 0.7}, id="threshold"),
        pytest.param({"contract": Contract(max_quality_loss=0.01)}, id="contract"),
        pytest.param({"slices": (LEGAL,)}, id="slices"),
        pytest.param({"labels": frozenset({"a"}), "new_label_bound": 0.1}, id="new-labels"),
    ],
)
def test_a_saved_watch_of_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="another bundle, contract"):
        LiveMonitor.from_dict(LiveMonitor(WATCH).to_dict(), replace(WATCH, **change))


def test_a_new_bundle_starts_again() -> None:
    certificate = certify([0.9] * 100, [1] * 100, WATCH.contract)
    monitor = LiveMonitor.for_bundle("next", certificate)

    assert ("next", 0.9, Standing.NIGHT) == (
        monitor.watch.bundle,
        monitor.watch.threshold,
        monitor.standing,
    )
    assert RowUse.OTHER_BUNDLE is monitor.observe(row("1"))
    assert "next night, 0 rows" in repr(monitor)


def test_a_slice_that_errs_loses_its_certificate_and_the_whole_keeps_its_own() -> None:
    # One request in twenty-five is of a slice that has gone bad: too little to break the whole.
    monitor = LiveMonitor(SLICED)
    for n in range(1500):
        bad = n % 25 == 0
        name = "legal" if bad else "billing" if n % 2 else ""
        monitor.observe(row(str(n), confidence=1.0, agree=not bad, slice_name=name))
    found = monitor.advice()

    assert ((SliceOrder("legal", NEVER_KEEP),), True) == (found.revoked_slices, found.night)
    assert (False, 0.0, 0.1) == (
        found.certificate_revoked,
        found.threshold_floor,
        found.audit_rate,
    )
    assert (Standing.REVOKED, Standing.LIVE) == (
        monitor.slices["legal"].standing,
        monitor.slices["billing"].standing,
    )
    assert found.revoked_slices == found.apply(Directive()).revoked_slices


def test_a_slice_gets_its_certificate_back_when_it_proves_it_anew() -> None:
    monitor = LiveMonitor(SLICED)
    legal = monitor.slices["legal"]
    for n in range(60):
        if not legal.alarmed:
            monitor.observe(row(str(n), confidence=1.0, agree=False, slice_name="legal"))
    fed(monitor, 600, start=1000, slice_name="legal")

    assert (Standing.LIVE, 1) == (legal.standing, legal.alarms)
    assert () == monitor.advice().revoked_slices


def test_who_chose_to_serve_is_served_in_a_slice_too() -> None:
    serving = replace(SLICED, contract=replace(SLICED.contract, on_uncertified=OnUncertified.SERVE))
    monitor = LiveMonitor(serving)
    for n in range(60):
        monitor.observe(row(str(n), confidence=1.0, agree=False, slice_name="legal"))

    assert (SliceOrder("legal", 0.0),) == monitor.advice().revoked_slices


def test_only_slices_with_a_promise_of_their_own_are_watched_and_not_without_end() -> None:
    whole = certify([0.9] * 100, [1] * 100, WATCH.contract)
    many = [replace(LEGAL, name=f"s{n:03}", rows=100 + n) for n in range(MOST_SLICES + 8)]
    idle = [
        replace(LEGAL, name="small", inherited=True),
        replace(LEGAL, name="shut", threshold=NEVER_KEEP),
    ]
    monitor = LiveMonitor.for_bundle("next", replace(whole, slices=tuple(many + idle)))

    assert [f"s{n:03}" for n in range(MOST_SLICES + 7, 7, -1)] == list(monitor.slices)


def test_labels_the_student_cannot_say_withdraw_the_certificate_within_dozens_of_requests() -> None:
    # What escalates is labelled anyway: nobody has to wait for audits.
    monitor = LiveMonitor(NEWS)
    for n in range(40):
        said = label("news" if n % 2 else "student")
        monitor.observe(replace(row(str(n), confidence=0.2, teacher=said), sequence=n + 1))
        if monitor.alarmed:
            break
    found = monitor.advice()

    assert (True, NEVER_KEEP, True) == (
        found.certificate_revoked,
        found.threshold_floor,
        found.night,
    )
    assert (Cause.NEW_LABELS, n + 1) == (monitor.cause, monitor.changes[""])
    assert n < 30


def test_as_many_new_labels_as_were_certified_with_are_no_news() -> None:
    monitor = LiveMonitor(replace(NEWS, run_length=100_000.0))
    for n in range(2000):
        said = label("news" if n % 10 == 0 else "student")
        monitor.observe(row(str(n), confidence=0.2, teacher=said))

    assert (0, 200) == (monitor.whole.alarms, monitor.counts["new_label"])


def test_new_labels_among_kept_answers_are_risk_and_not_counted_twice() -> None:
    # Whether a kept answer is seen depends on a coin; under the threshold all is seen.
    monitor = LiveMonitor(NEWS)
    before = monitor.news
    monitor.observe(row("1", confidence=0.9, teacher=label("news")))
    ordered = {"threshold": NEVER_KEEP, "kind": RecordKind.ESCALATION}
    monitor.observe(row("2", confidence=0.9, teacher=label("news"), **ordered))  # type: ignore[arg-type]

    assert before == monitor.news
    assert monitor.drift.level > 0.0


def test_once_heard_news_are_old_and_the_risk_decides() -> None:
    # The contract is proved anew on traffic with the new labels: all of them escalate.
    monitor = LiveMonitor(NEWS)
    for n in range(40):
        monitor.observe(row(str(n), confidence=0.2, teacher=label("news")))
    everything = {"threshold": NEVER_KEEP, "kind": RecordKind.ESCALATION}
    for n in range(100, 500):
        sure = n % 2 == 0
        said = label("student" if sure else "news")
        monitor.observe(
            row(str(n), confidence=0.9 if sure else 0.2, teacher=said, **everything)  # type: ignore[arg-type]
        )

    assert (Standing.LIVE, None, 1) == (monitor.standing, monitor.news, monitor.whole.alarms)


@pytest.mark.parametrize("watch", [SLICED, NEWS])
def test_a_watch_of_slices_and_news_goes_on_after_a_restart(watch: Watch) -> None:
    monitor = LiveMonitor(watch)
    for n in range(60):
        said = label("news" if n % 3 == 0 else "student")
        monitor.observe(row(str(n), confidence=n / 60, teacher=said, slice_name="legal"))
    restored = LiveMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())), watch)

    assert monitor.to_dict() == restored.to_dict()
    assert monitor.advice() == restored.advice()
