"""Each safeguard of the contract is held by one check: switched off, exactly that one fails.

The checks are plain functions. They run once as tests, and once more for every safeguard with that
safeguard taken out: a check that still passes guards nothing, two that fail guard the same thing.
Whoever takes a safeguard out of the code itself sees one test fail: its check.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from understudy.router import certificate as certificates
from understudy.router import evidence as weighing
from understudy.router import live as live_accounts
from understudy.router import monitor as monitors
from understudy.router import policy as policies
from understudy.router.account import Promise
from understudy.router.budget import Governor
from understudy.router.evidence import Evidence
from understudy.router.live import LiveRisk, most_errors
from understudy.router.monitor import LiveMonitor, Watch
from understudy.router.policy import Policy, Score
from understudy.types.contract import Contract, SliceCertificate
from understudy.types.decision import NEVER_KEEP, Action
from unit.router.rows import KEY, row

FIVE = Contract(max_quality_loss=0.05)
RIGHT, WRONG = Evidence(0.95, error=False), Evidence(0.95, error=True)


def after(live: LiveRisk, *rows: Evidence) -> LiveRisk:
    for one in rows:
        live = live.observe(one)
    return live


def all_slices_keep_their_promise_together() -> None:
    """Eight slices, each a little worse than the contract: no more than 5 % of nights err."""
    contract = Contract(max_quality_loss=0.2)
    rng = np.random.default_rng(5)
    names = [str(n) for n in range(8) for _ in range(24)] + [""] * 2000
    broken = 0
    for _ in range(150):
        agree = rng.random(len(names)) < np.where(np.arange(len(names)) < 192, 0.79, 1.0)
        found = certificates.certify(np.ones(len(names)), agree, contract, slices=names)
        broken += any(s.threshold != NEVER_KEEP and not s.inherited for s in found.slices)

    assert broken <= 150 * 0.05 + 2 * math.sqrt(150 * 0.05)
    _every_further_promise_costs_confidence()


def _every_further_promise_costs_confidence() -> None:
    """Ten slices at 95 % each would break one of ten promises in four of ten nights."""
    names = [str(n) for n in range(10) for _ in range(80)]
    together = certificates.certify(np.full(800, 0.9), np.ones(800), FIVE, slices=names)
    alone = certificates.certify(np.full(80, 0.9), np.ones(80), FIVE, slices=names[:80])
    again = certificates.certify(np.full(80, 0.9), np.ones(80), FIVE, looks=30)

    assert all(s.inherited for s in together.slices)
    assert not alone.slices[0].inherited
    assert not again.certified


def the_bound_holds_at_every_round() -> None:
    """Calm, broken, calm again: proof goes soon after the break; a new account proves it again."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        calm = rng.random(1000) < 0.01
        errors = np.concatenate([np.zeros(140, bool), rng.random(400) < 0.3, calm])
        begun = LiveRisk.start(FIVE, (0.5,))
        proved = [_keeps_its_bound(live, errors[:n]) for n, live in _rounds(begun, errors)]

        assert proved[139]
        assert not any(proved[140 + 60 : 540])
        assert (
            after(
                LiveRisk.start(FIVE, (0.5,), attempt=2), *[WRONG if e else RIGHT for e in calm]
            ).threshold
            == 0.5
        )
    errors_are_bounded_in_every_stretch_that_ends_in_proof()


@given(st.lists(st.booleans(), max_size=40))
@settings(max_examples=60, deadline=None)
def errors_are_bounded_in_every_stretch_that_ends_in_proof(errors: list[bool]) -> None:
    """Deterministic: on any data, at any round, whatever came before."""
    heard = np.array([False] * 100 + errors)
    for number, live in _rounds(LiveRisk.start(FIVE, (0.5,)), heard):
        _keeps_its_bound(live, heard[:number])


def _rounds(live: LiveRisk, errors: NDArray[np.bool_]) -> Iterator[tuple[int, LiveRisk]]:
    for number, wrong in enumerate(errors, start=1):
        live = live.observe(WRONG if wrong else RIGHT)
        yield number, live


def _keeps_its_bound(live: LiveRisk, heard: NDArray[np.bool_]) -> bool:
    """Whether there is proof; if so, no stretch that ends here has too many errors."""
    if live.threshold == NEVER_KEEP:
        return False
    backwards = np.cumsum(heard[::-1])
    most = [most_errors(n, 0.05) for n in range(1, len(heard) + 1)]
    assert (backwards <= most).all()
    return True


def a_good_year_earns_no_more_than_a_good_month() -> None:
    """And so cannot pay for a bad week."""
    month, year = (after(LiveRisk.start(FIVE, (0.5,)), *[RIGHT] * n) for n in (2000, 4000))

    assert year.log_wealth.max() <= math.log(10 / year.delta) + 1e-9
    assert month.log_evidence == pytest.approx(year.log_evidence)
    assert [most_errors(n, 0.05) / n for n in (100, 1000, 100_000)] == pytest.approx(
        [0.26, 0.072, 0.0502], rel=0.35
    )


def a_student_that_learned_by_heart_is_not_certified() -> None:
    """It knows its training rows and guesses all others; it is sure of everything."""
    rng = np.random.default_rng(2)
    trained = np.arange(2000) < 1900
    agree = np.where(trained, 1.0, rng.random(2000) < 0.5)
    found = certificates.certify(np.full(2000, 0.99), agree, FIVE, trained=trained)

    assert not found.certified
    assert found == certificates.certify(np.full(100, 0.99), agree[1900:], FIVE)


def a_lost_label_does_not_help() -> None:
    """One label in ten never came: it may have been an error, so it is one."""
    agree = np.where(np.arange(1000) % 10 == 0, math.nan, 1.0)

    assert not certificates.certify(np.full(1000, 0.99), agree, FIVE).certified


def the_coin_falls_before_the_score_is_seen() -> None:
    policy = Policy(threshold=0.5, audit_rate=0.2, certified=True, audit_key=KEY)
    ids = [str(n) for n in range(300)]
    coins = [[policy.decide(Score(c), i).audit for i in ids] for c in (0.1, 0.9)]

    assert coins[0] == coins[1]


def escalations_do_not_drown_the_audits() -> None:
    """Half escalates and is right to; of the kept, every fifth is wrong. That is no contract."""
    watch = Watch("bundle", FIVE, 0.5, run_length=1e12)
    monitor = LiveMonitor(watch)
    for n in range(600):
        monitor.observe(row(f"e{n}", confidence=0.1, rate=0.02))
        if n % 50 == 0:
            monitor.observe(row(f"a{n}", confidence=1.0, rate=0.02, agree=n % 250 > 0))

    assert monitor.live.threshold == NEVER_KEEP


def watched_slices_share_the_doubt_of_one_contract() -> None:
    """Three promises: each gets a third of the doubt, and three times the patience."""
    slices = tuple(
        SliceCertificate(name=name, threshold=0.7, rows=300, inherited=False) for name in ("a", "b")
    )
    lone, sliced = Watch("bundle", FIVE, 0.5), Watch("bundle", FIVE, 0.5, slices=slices)
    monitor = LiveMonitor(sliced)
    accounts = [monitor.whole, *monitor.slices.values()]

    assert sum(a.live.delta for a in accounts) == pytest.approx(LiveMonitor(lone).live.delta)
    assert {3 * lone.run_length} == {a.drift.run_length for a in accounts}


def a_spool_that_sends_again_proves_nothing_twice() -> None:
    monitor = LiveMonitor(Watch("bundle", FIVE, 0.5))
    for _ in range(300):
        monitor.observe(row("the same"))

    assert monitor.live.threshold == NEVER_KEEP


def the_budget_holds_after_a_quiet_day() -> None:
    governor = Governor(0.1)
    for _ in range(5000):
        governor = governor.step(spent=False)
    calls = 0
    for _ in range(1000):
        asked = governor.threshold > 0.0
        governor = governor.step(spent=asked)
        calls += asked

    assert calls <= 0.1 * 1000 + 52


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        all_slices_keep_their_promise_together,
        the_bound_holds_at_every_round,
        a_good_year_earns_no_more_than_a_good_month,
        a_student_that_learned_by_heart_is_not_certified,
        a_lost_label_does_not_help,
        the_coin_falls_before_the_score_is_seen,
        escalations_do_not_drown_the_audits,
        watched_slices_share_the_doubt_of_one_contract,
        a_spool_that_sends_again_proves_nothing_twice,
        the_budget_holds_after_a_quiet_day,
    )
}


def drop_the_correction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(certificates, "shared_delta", lambda delta, _looks, _slices: delta)


def latch_the_certificate(patch: pytest.MonkeyPatch) -> None:
    honest = LiveRisk.observe

    def latched(live: LiveRisk, one: Evidence) -> LiveRisk:
        if live.threshold == NEVER_KEEP:
            return honest(live, one)
        moved = honest(live, one)
        return replace(moved, log_wealth=np.maximum(live.log_wealth, moved.log_wealth))

    patch.setattr(LiveRisk, "observe", latched)


def remove_the_cap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(live_accounts, "CAP", math.inf)


def use_training_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(certificates, "fresh_rows", lambda _trained, rows: np.ones(rows, bool))


def leave_lost_labels_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(certificates, "errors_of", lambda agree: agree == 0.0)


def draw_the_coin_after_the_score(patch: pytest.MonkeyPatch) -> None:
    honest = Policy.decide

    def late(policy: Policy, score: Score, request_key: str, **more: Any) -> Any:
        found = honest(policy, score, request_key, **more)
        return replace(found, audit=found.audit and found.action is Action.KEEP)

    patch.setattr(policies.Policy, "decide", late)


def forget_the_propensity(patch: pytest.MonkeyPatch) -> None:
    honest = weighing.evidence
    patch.setattr(
        monitors,
        "evidence",
        lambda record, *, error: replace(honest(record, error=error), weight=1.0),
    )


def let_each_slice_doubt_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Watch, "promise", lambda w, threshold: Promise(w.contract, threshold, w.run_length)
    )


def count_duplicates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveMonitor, "_is_known", lambda _monitor, _event_id: False)


def let_the_budget_save_up(patch: pytest.MonkeyPatch) -> None:
    def hoard(governor: Governor, *, spent: bool) -> Governor:
        moved = object.__new__(Governor)
        object.__setattr__(moved, "budget", governor.budget)
        object.__setattr__(moved, "gain", governor.gain)
        change = governor.gain * (governor.budget - spent)
        object.__setattr__(moved, "threshold", governor.threshold + change)
        return moved

    patch.setattr(Governor, "step", hoard)


SAFEGUARDS = {
    drop_the_correction: "all_slices_keep_their_promise_together",
    latch_the_certificate: "the_bound_holds_at_every_round",
    remove_the_cap: "a_good_year_earns_no_more_than_a_good_month",
    use_training_rows: "a_student_that_learned_by_heart_is_not_certified",
    leave_lost_labels_out: "a_lost_label_does_not_help",
    draw_the_coin_after_the_score: "the_coin_falls_before_the_score_is_seen",
    forget_the_propensity: "escalations_do_not_drown_the_audits",
    let_each_slice_doubt_alone: "watched_slices_share_the_doubt_of_one_contract",
    count_duplicates: "a_spool_that_sends_again_proves_nothing_twice",
    let_the_budget_save_up: "the_budget_holds_after_a_quiet_day",
}


def failing() -> list[str]:
    """The names of the checks that fail now."""
    failed = []
    for name, check in CHECKS.items():
        try:
            check()
        except AssertionError:
            failed.append(name)
    return failed


@functools.cache
def is_any_off() -> bool:
    """True if a check fails although nothing was switched off here."""
    return bool(failing())


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_safeguard_holds(check: Callable[[], None]) -> None:
    check()


def test_every_check_guards_a_safeguard() -> None:
    assert set(CHECKS) == set(SAFEGUARDS.values())


@pytest.mark.parametrize(
    ("switch_off", "guard"), SAFEGUARDS.items(), ids=[f.__name__ for f in SAFEGUARDS]
)
def test_without_the_safeguard_exactly_its_check_fails(
    switch_off: Callable[[pytest.MonkeyPatch], None], guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_any_off():
        pytest.skip("a safeguard is off in the code itself: its own check says so")
    switch_off(monkeypatch)

    assert [guard] == failing()
