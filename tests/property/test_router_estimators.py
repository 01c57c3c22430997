"""Laws of the evidence: fair bets and unbiased estimates, under any policy, by enumeration.

A small population is drawn; every outcome of one request (which one it is, whether its coin falls)
is weighed with its exact probability. Nothing here rests on luck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from understudy.router.certificate import certify
from understudy.router.drift import DriftDetector
from understudy.router.evidence import evidence, is_error
from understudy.router.live import BETS, LiveRisk
from understudy.router.monitor import LiveMonitor, Watch
from understudy.router.noise import Sayings
from understudy.router.offpolicy import Log, dr_terms, risk_dr, risk_ips, risk_snips
from understudy.types.contract import Contract, RiskKind
from understudy.types.decision import NEVER_KEEP
from understudy.types.records import LoggedRow
from unit.router.rows import label as said_label
from unit.router.rows import row

CONFIDENCES = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
PEOPLE = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=12)
RATES = st.sampled_from([0.01, 0.1, 0.5, 1.0])
THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.9, NEVER_KEEP])


@dataclass(frozen=True, slots=True)
class Case:
    """Requests, the policy that logs them, and the threshold that is asked about."""

    people: list[tuple[float, bool]]
    threshold: float
    rate: float
    asked: float

    @property
    def kept(self) -> float:
        return float(np.mean([c >= self.asked for c, _ in self.people]))

    @property
    def risk(self) -> float:
        return float(np.mean([c >= self.asked and wrong for c, wrong in self.people]))

    def outcomes(self) -> Iterator[tuple[float, LoggedRow]]:
        """Every row that can be logged, with its probability."""
        for confidence, wrong in self.people:
            chance = self.rate if confidence >= self.threshold else 1.0
            logged = row(
                confidence=confidence, threshold=self.threshold, rate=self.rate, agree=not wrong
            )
            yield chance / len(self.people), logged


CASES = st.builds(
    Case, people=PEOPLE, threshold=THRESHOLDS, rate=RATES, asked=st.sampled_from([0.1, 0.5, 0.7])
)


@given(CASES, st.sampled_from([RiskKind.JOINT, RiskKind.SELECTIVE]), st.floats(0.01, 0.9))
def test_no_bet_gains_while_the_contract_is_broken(
    case: Case, kind: RiskKind, fraction: float
) -> None:
    """Whatever threshold and rate are in force: the wealth is a supermartingale."""
    risk = case.risk if kind is RiskKind.JOINT else case.risk / case.kept if case.kept else 0.0
    assume(risk * fraction > 1e-6)
    live = LiveRisk.start(Contract(max_quality_loss=risk * fraction, kind=kind), (case.asked,))

    gain = np.zeros(len(BETS))
    for chance, logged in case.outcomes():
        counted = live.observe(evidence(logged.record, error=is_error(logged)))
        gain += chance * (np.exp(counted.log_wealth[0]) - 1.0)
    assert np.all(gain <= 1e-9)


@given(CASES, st.floats(0.0, 1e6), st.floats(1.0, 3.0))
def test_evidence_of_drift_grows_by_one_a_request_at_most(
    case: Case, before: float, slack: float
) -> None:
    """While the contract holds; hence the mean time to a false alarm."""
    rate = max(case.risk * slack, 0.01)
    assume(rate < 1.0)
    detector = DriftDetector(rate, evidence=(before,) * 5)

    growth = np.zeros(5)
    for chance, logged in case.outcomes():
        counted = detector.observe(evidence(logged.record, error=is_error(logged)), case.asked)
        growth += chance * (np.array(counted.evidence) - before)
    assert np.all(growth <= 1.0 + 1e-9 * max(1.0, before))


@given(CASES, st.floats(0.0, 1e6), st.floats(1.0, 3.0))
def test_evidence_of_new_labels_grows_by_one_a_request_at_most(
    case: Case, before: float, slack: float
) -> None:
    """While no more of what escalates is new than was certified, under any threshold ordered."""
    assume(case.threshold >= case.asked)
    under = [new for confidence, new in case.people if confidence < case.asked]
    rate = max(sum(under) / max(1, len(under)) * slack, 0.01)
    assume(rate < 1.0)
    labels = frozenset({"student"})
    watch = Watch("bundle", Contract(), case.asked, labels=labels, new_label_bound=rate)

    growth = np.zeros(5)
    # A detector that has just rung is put away; at that it had grown by one.
    silent = DriftDetector(rate, evidence=(before + 1.0,) * 5)
    for chance, logged in case.outcomes():
        after = heard_news(watch, DriftDetector(rate, evidence=(before,) * 5), logged)
        growth += chance * (np.array((silent if after is None else after).evidence) - before)
    assert np.all(growth <= 1.0 + 1e-9 * max(1.0, before))


def heard_news(watch: Watch, before: DriftDetector, logged: LoggedRow) -> DriftDetector | None:
    monitor = LiveMonitor(watch)
    monitor.news = before
    monitor.observe(logged)
    return monitor.news


def test_the_bound_on_new_labels_fails_as_rarely_as_promised() -> None:
    """Although it is taken under a threshold that was chosen on the same rows."""
    rng = np.random.default_rng(8)
    failed = seen = 0
    for _ in range(300):
        confidence = rng.random(700)
        new = (confidence < 0.6) & (rng.random(700) < 0.15)
        agree = ~new & (rng.random(700) < 0.7 + 0.3 * confidence)
        found = certify(confidence, agree, Contract(max_quality_loss=0.05), new_label=new)
        if found.certified:
            seen += 1
            share = 0.15 * min(1.0, 0.6 / found.threshold)
            failed += share > found.new_label_bound

    assert seen > 250
    assert failed <= stats.binom.ppf(0.999, seen, 0.05)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), max_size=60))
def test_what_was_said_before_is_recalled(said: list[tuple[int, str]]) -> None:
    """Row by row as in the batch: an input with two labels is a contradiction ever after."""
    sayings, before = Sayings(), dict[int, list[str]]()
    for number, (text, label) in enumerate(said):
        heard = sayings.recall(row(str(number), text=str(text), teacher=said_label(label)))
        earlier = before.setdefault(text, [])
        others = [other for other in earlier if other != label]

        assert (heard in others) if others else heard == (earlier[0] if earlier else "")
        earlier.append(label)


@given(CASES)
def test_the_weighted_risk_is_unbiased_for_thresholds_that_never_ran(case: Case) -> None:
    """Inverse propensity, and its doubly robust form with any confidence, true or not."""
    ips = doubly_robust = 0.0
    for confidence, wrong in case.people:
        propensity = 1.0 if confidence < case.threshold else case.rate
        for seen in (True, False):
            chance = (propensity if seen else 1.0 - propensity) / len(case.people)
            log = one_request(confidence, float(wrong) if seen else math.nan, propensity)
            ips += chance * risk_ips(log, case.asked).value * log.size
            doubly_robust += chance * float(dr_terms(log, case.asked).sum())

    assert ips == pytest.approx(case.risk)
    assert doubly_robust == pytest.approx(case.risk)


def one_request(confidence: float, error: float, propensity: float) -> Log:
    """The request, in a log of a thousand that surely escalated and agreed."""
    rest = 999
    return Log(
        np.append(np.full(rest, -1.0), confidence),
        np.append(np.zeros(rest), error),
        np.append(np.ones(rest), propensity),
        np.ones(rest + 1, bool),
        requests=rest + 1.0,
    )


@given(
    st.lists(st.tuples(CONFIDENCES, st.sampled_from([0.0, 1.0, math.nan]), RATES), min_size=1),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_estimates_lie_in_their_intervals_and_the_intervals_in_range(
    rows: list[tuple[float, float, float]], asked: float
) -> None:
    confidence, error, propensity = (np.array(column) for column in zip(*rows, strict=True))
    assume(not np.isnan(error).all())
    log = Log(confidence, error, propensity, np.ones(len(rows), bool))

    for estimate in (risk_ips(log, asked), risk_snips(log, asked), risk_dr(log, asked)):
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0


def test_intervals_cover_what_they_promise() -> None:
    """Rare errors, thousands of requests, one in twenty audited: 95 % means 95 %."""
    rng = np.random.default_rng(11)
    misses = {"ips": 0, "snips": 0, "dr": 0}
    for _ in range(300):
        confidence = rng.random(3000)
        error = (rng.random(3000) < 0.15 * (1 - confidence)).astype(float)
        escalated = confidence < 0.3
        coin = rng.random(3000) < 0.05
        log = Log(
            confidence,
            np.where(escalated | coin, error, math.nan),
            np.where(escalated, 1.0, 0.05),
            coin,
            requests=3000.0,
        )
        truth = 0.15 * (0.5 - 0.6 + 0.18)
        for name, judge in (("ips", risk_ips), ("snips", risk_snips), ("dr", risk_dr)):
            found = judge(log, 0.6)
            misses[name] += not found.low <= truth <= found.high

    assert max(misses.values()) <= 300 * 0.05 + 2.5 * math.sqrt(300 * 0.05 * 0.95)
