"""Laws of certificate, governor and cap: they hold on any data, at every round."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from understudy.router.bounds import allowed_errors, risk_upper_bound, rows_needed, tail
from understudy.router.budget import Governor, early_budget
from understudy.router.certificate import ALWAYS_ESCALATES, certify
from understudy.router.evidence import Evidence
from understudy.router.live import LiveRisk
from understudy.router.policy import Policy, Score
from understudy.types.contract import Contract, Precedence, RiskKind
from understudy.types.decision import NEVER_KEEP, Action
from unit.router.rows import KEY

FIVE = Contract(max_quality_loss=0.05)
CONFIDENCES = st.sampled_from([ALWAYS_ESCALATES, 0.0, 0.25, 0.5, 0.75, 1.0])
ROWS = st.lists(st.tuples(CONFIDENCES, st.sampled_from([0.0, 1.0, math.nan])), max_size=200)
KINDS = st.sampled_from(list(RiskKind))


@given(ROWS, st.floats(0.02, 0.6), KINDS)
def test_a_certificate_bounds_its_own_rows(
    rows: list[tuple[float, float]], rate: float, kind: RiskKind
) -> None:
    confidence, agree = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    found = certify(confidence, agree, Contract(max_quality_loss=rate, kind=kind))

    kept = confidence >= found.threshold
    assert found.errors == int((kept & (agree != 1.0)).sum())
    assert found.certified == (found.threshold != NEVER_KEEP)
    assert not found.certified or found.risk_upper_bound <= rate + 1e-9
    assert not found.certified or found.rows_missing == 0
    assert found.rows == len(rows)


@given(ROWS, st.integers(0, 199))
def test_a_further_error_never_lowers_the_threshold(
    rows: list[tuple[float, float]], place: int
) -> None:
    if not rows:
        return
    confidence, agree = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    before = certify(confidence, agree, FIVE).threshold
    agree[place % len(rows)] = 0.0

    assert certify(confidence, agree, FIVE).threshold >= before


@given(ROWS, st.integers(1, 5))
def test_more_promises_never_lower_the_threshold(
    rows: list[tuple[float, float]], slices: int
) -> None:
    names = [str(n % slices) for n in range(len(rows))]
    columns = [r[0] for r in rows], [r[1] for r in rows]
    found = certify(*columns, FIVE, slices=names)

    assert found.threshold >= certify(*columns, FIVE).threshold
    assert all(part.threshold >= found.threshold for part in found.slices)


@given(st.integers(1, 400), st.floats(0.005, 0.5), st.floats(0.01, 0.2))
def test_the_allowed_errors_are_those_whose_bound_holds(
    rows: int, rate: float, delta: float
) -> None:
    most = allowed_errors(rows, rate, delta)

    assert most == -1 or risk_upper_bound(most, rows, delta) <= rate + 1e-9
    assert risk_upper_bound(most + 1, rows, delta) > rate - 1e-9


@given(st.floats(0.01, 0.3), st.floats(0.01, 0.2), st.floats(0.0, 0.9))
def test_the_rows_asked_for_suffice_and_hardly_fewer_do(
    rate: float, delta: float, share: float
) -> None:
    rows = rows_needed(rate, delta, share * rate)

    assert rows is not None
    assert tail(math.ceil(share * rate * rows - 1e-9), rows, rate) <= delta + 1e-12


@pytest.mark.parametrize("kind", [RiskKind.JOINT, RiskKind.SELECTIVE])
def test_contracts_are_broken_as_rarely_as_promised(kind: RiskKind) -> None:
    """Whether the confidence means something or hardly anything."""
    rng = np.random.default_rng(4)
    for slope in (0.3, 0.02):
        broken = 0
        for _ in range(200):
            confidence = rng.random(700)
            agree = rng.random(700) < 1.0 - slope * (1.0 - confidence)
            found = certify(confidence, agree, Contract(max_quality_loss=0.05, kind=kind))
            t = min(1.0, found.threshold)
            joint = slope * (1.0 - t) ** 2 / 2
            risk = joint if kind is RiskKind.JOINT else slope * (1.0 - t) / 2
            broken += found.certified and risk > 0.05
        assert broken <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_broken_contract_is_hardly_ever_proved_at_any_round() -> None:
    """Ville: looking after every row costs nothing. The risk is a hair above the contract."""
    rng = np.random.default_rng(9)
    proved = 0
    for _ in range(80):
        live = LiveRisk.start(FIVE, (0.5,))
        for wrong in rng.random(300) < 0.0501:
            live = live.observe(Evidence(0.9, bool(wrong)))
            if live.threshold != NEVER_KEEP:
                proved += 1
                break

    assert proved <= stats.binom.ppf(0.999, 80, 0.05)


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=400),
    st.floats(0.01, 1.0),
    st.floats(-0.02, 1.0),
    st.floats(0.005, 0.3),
)
def test_the_budget_holds_on_any_data_at_every_round(
    requests: list[tuple[float, bool]], budget: float, start: float, gain: float
) -> None:
    """Whatever the confidences, audits included: no adversary spends more."""
    governor = first = Governor(budget, start, gain)
    policy = Policy(
        threshold=NEVER_KEEP,
        audit_rate=0.5,
        certified=False,
        audit_key=KEY,
        precedence=Precedence.BUDGET,
    )
    escalated = 0
    for number, (confidence, audited) in enumerate(requests, start=1):
        found = policy.decide(Score(confidence), "r", budget_threshold=governor.threshold)
        asked = found.action is Action.ESCALATE
        governor = governor.step(spent=asked or audited)
        escalated += asked

        assert escalated <= first.most_escalations(number) + 1e-6
        assert governor.threshold <= 1.0 + gain


@given(st.floats(0.01, 0.5), st.floats(0.0, 0.99), st.integers(1, 500))
def test_spending_early_spends_no_more(budget: float, lead: float, total: int) -> None:
    spent = sum(early_budget(budget, n / total, lead) for n in range(total)) / total

    assert spent <= budget * (1.0 + lead / total) + 1e-9
