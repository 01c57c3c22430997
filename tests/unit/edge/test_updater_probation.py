"""Rules for a student on probation: condemned on evidence, never on small numbers."""

from __future__ import annotations

import math
import random

import pytest

from understudy.edge.updater_probation import (
    Judgement,
    ProbationCounters,
    ProbationRules,
    judge,
    loss_evidence,
)
from understudy.types.errors import InvalidValueError

RULES = ProbationRules()
CHAMPION = ProbationCounters(
    requests=1000, escalated=300, latency_p95_ms=2.0, compared=200, disagreed=6
)
GOOD = ProbationCounters(requests=300, escalated=80, latency_p95_ms=2.5, compared=60, disagreed=2)


def verdict(
    now: ProbationCounters,
    before: ProbationCounters = CHAMPION,
    *,
    elapsed_s: float = 700.0,
    promised: float = 0.3,
) -> Judgement:
    return judge(now, before, RULES, elapsed_s=elapsed_s, promised_escalation=promised).judgement


def changed(**fields: float) -> ProbationCounters:
    plain = {name: getattr(GOOD, name) for name in ProbationCounters.__slots__}
    return ProbationCounters(**{**plain, **fields})


def test_a_good_student_is_committed_after_time_and_traffic() -> None:
    assert Judgement.COMMIT is verdict(GOOD)


@pytest.mark.parametrize(
    ("now", "elapsed_s"),
    [(GOOD, 599.0), (changed(requests=199, escalated=50), 700.0), (ProbationCounters(), 700.0)],
    ids=["too-soon", "too-few", "nothing-yet"],
)
def test_too_little_is_no_verdict(now: ProbationCounters, elapsed_s: float) -> None:
    assert Judgement.WAIT is verdict(now, elapsed_s=elapsed_s)


def test_a_node_without_traffic_commits_after_a_day() -> None:
    """Otherwise a quiet node could never take another update."""
    assert Judgement.COMMIT is verdict(ProbationCounters(), elapsed_s=86_400.0)


@pytest.mark.parametrize(
    "now",
    [
        changed(errors=1),
        changed(invalid=30),
        changed(latency_p95_ms=25.0),
        changed(escalated=300),
        changed(escalated=0, requests=400),
        changed(compared=60, disagreed=40),
        changed(shadow_wins=0, shadow_losses=20),
    ],
    ids=["errors", "invalid", "slow", "escalates-all", "keeps-all", "disagrees", "worse-in-pairs"],
)
def test_each_kind_of_trouble_takes_it_back(now: ProbationCounters) -> None:
    promised = 0.3 if now.escalated else 0.4

    assert Judgement.ROLLBACK is verdict(now, promised=promised)


@pytest.mark.parametrize(
    "now",
    [
        changed(invalid=1),
        changed(requests=150, latency_p95_ms=500.0, escalated=40),
        changed(compared=3, disagreed=1),
        changed(shadow_wins=3, shadow_losses=6),
        changed(requests=8, escalated=8),
    ],
    ids=["one-invalid", "first-runs-slow", "three-audits", "nine-pairs", "eight-requests"],
)
def test_small_numbers_condemn_nobody(now: ProbationCounters) -> None:
    assert Judgement.ROLLBACK is not verdict(now, promised=0.3)


def test_a_first_certified_student_may_escalate_far_less_than_an_uncertified_champion() -> None:
    uncertified = ProbationCounters(requests=1000, escalated=1000, latency_p95_ms=2.0)

    assert Judgement.COMMIT is verdict(changed(escalated=45), uncertified, promised=0.2)


def test_drifting_traffic_is_not_the_new_students_fault() -> None:
    """The champion escalated as much just before: going back would change nothing."""
    drifting = changed(requests=1000, escalated=700)

    assert Judgement.COMMIT is verdict(changed(escalated=200), drifting, promised=0.1)


def test_a_teacher_that_always_disagreed_does_not_condemn_the_next_student() -> None:
    before = changed(compared=100, disagreed=40)

    assert Judgement.COMMIT is verdict(changed(compared=60, disagreed=24), before)


def test_paired_evidence_seldom_condemns_an_equal_student_however_often_one_looks() -> None:
    """Ville: at most one in a hundred fair coins ever reaches a wealth of a hundred."""
    chance = random.Random(7)  # noqa: S311
    condemned = 0
    for _ in range(400):
        wins = losses = 0
        for _ in range(300):
            wins, losses = (wins + 1, losses) if chance.random() < 0.5 else (wins, losses + 1)
            if loss_evidence(wins, losses) >= RULES.shadow_evidence:
                condemned += 1
                break

    assert condemned <= 8


def test_paired_evidence_finds_a_worse_student() -> None:
    assert loss_evidence(10, 40) > RULES.shadow_evidence
    assert math.isclose(loss_evidence(0, 0), 1.0)
    assert loss_evidence(5000, 50) >= 0.0


def test_negative_counters_cannot_be_built() -> None:
    with pytest.raises(InvalidValueError):
        ProbationCounters(requests=-1)
