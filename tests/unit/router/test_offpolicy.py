"""Thresholds and contracts that never ran."""

from __future__ import annotations

import math

import numpy as np
import pytest

from understudy.router.offpolicy import (
    Log,
    Terms,
    escalated_share,
    read_log,
    risk_dr,
    risk_ips,
    risk_snips,
    what_if,
    what_if_contract,
)
from understudy.types.contract import Contract
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import DataError, InvalidValueError
from unit.router.rows import label, row


def log(
    rows: int = 4000, *, threshold: float = 0.5, rate: float = 0.1, seed: int = 0, full: bool = True
) -> tuple[Log, np.ndarray, np.ndarray]:
    """A log under one policy, with the truth beside it."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(rows)
    error = (rng.random(rows) < 0.5 * (1 - confidence)).astype(float)
    coin = rng.random(rows) < rate
    escalated = confidence < threshold
    seen = escalated | coin
    propensity = np.where(escalated, 1.0, rate)
    known = np.where(seen, error, math.nan)
    keep = np.ones(rows, bool) if full else seen
    columns = (confidence[keep], known[keep], propensity[keep], coin[keep])
    return Log(*columns, requests=float(rows)), confidence, error


@pytest.mark.parametrize("full", [True, False], ids=["every-request", "labelled-rows-only"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8])
def test_a_threshold_that_never_ran_is_judged_within_its_interval(
    threshold: float, full: bool
) -> None:
    found, confidence, error = log(full=full)
    truth = float(((confidence >= threshold) & (error == 1)).mean())
    asked = what_if(found, threshold)

    for estimate in (asked.risk_ips, asked.risk_snips, asked.risk_dr):
        assert estimate.low <= truth <= estimate.high
        assert estimate.high - estimate.low < 0.09
    assert asked.escalated.low <= (confidence < threshold).mean() <= asked.escalated.high


def test_what_is_known_for_certain_is_not_estimated() -> None:
    # Under the threshold in force every row has its label; the count is exact.
    found, confidence, _ = log()

    assert escalated_share(found, 0.5).value == pytest.approx((confidence < 0.5).mean())


def test_calls_and_savings_count_audits() -> None:
    found, confidence, _ = log()
    asked = what_if(found, 0.5, Terms(audit_rate=0.02, student_cost=0.1))
    escalated = (confidence < 0.5).mean()
    calls = escalated + 0.02 * (1 - escalated)

    assert asked.calls.value == pytest.approx(calls)
    assert asked.savings.value == pytest.approx(1 - calls - 0.1)
    assert asked.savings.low <= asked.savings.value <= asked.savings.high
    assert asked.agreement.value == pytest.approx(1 - asked.risk_snips.value)


def test_escalating_everything_risks_nothing_and_saves_nothing() -> None:
    found, _, _ = log()
    asked = what_if(found, NEVER_KEEP)

    assert (0.0, 0.0, 1.0, 0.0) == (
        asked.risk_ips.value,
        asked.risk_dr.value,
        asked.calls.value,
        asked.savings.value,
    )


def test_no_error_seen_is_not_no_risk() -> None:
    clean = Log(np.full(50, 0.9), np.zeros(50), np.full(50, 0.1), np.ones(50, bool))

    assert 0.0 == risk_snips(clean, 0.5).value
    assert 0.03 < risk_snips(clean, 0.5).high < 0.15
    assert risk_ips(clean, 0.95).high > 0.0


def test_doubly_robust_is_steadier_with_a_calibration_that_means_what_it_says() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(20_000)
    error = (rng.random(20_000) < 1 - confidence).astype(float)
    seen = rng.random(20_000) < 0.02
    full = Log(
        confidence, np.where(seen, error, math.nan), np.full(20_000, 0.02), seen, requests=20_000.0
    )

    def width(estimate: object) -> float:
        return estimate.high - estimate.low  # type: ignore[attr-defined]

    assert width(risk_dr(full, 0.2)) < 0.95 * width(risk_ips(full, 0.2))


def test_a_contract_is_certified_on_coin_rows_and_then_judged() -> None:
    found, _, _ = log(20_000)
    asked = what_if_contract(found, Contract(max_quality_loss=0.1))

    assert asked.certificate is not None
    assert asked.certificate.certified
    assert asked.threshold == asked.certificate.threshold
    assert asked.certificate.rows == int(found.coin.sum())
    assert asked.risk_snips.low <= 0.1


def test_the_number_of_requests_is_estimated_when_it_is_not_known() -> None:
    found, _, _ = log(full=False)
    unknown = Log(found.confidence, found.error, found.propensity, found.coin)

    assert unknown.size == pytest.approx(4000, rel=0.1)
    assert risk_ips(unknown, 0.5) == risk_snips(unknown, 0.5)


def test_rows_of_the_log_become_columns() -> None:
    rows = [
        row("1", confidence=0.9, rate=0.1, agree=False),
        row("2", confidence=0.2),
        row("3", confidence=0.3, kind=RecordKind.DEGRADED),
        row("4", confidence=0.8, teacher=label("student", mass=0.1)),
        row("5", confidence=0.7, agree=None),
    ]
    found, noise = read_log(rows, requests=30)

    assert [0.9, 0.2, 0.7] == found.confidence.tolist()
    assert [1.0, 0.0] == found.error[:2].tolist()
    assert math.isnan(found.error[2])
    assert [0.1, 1.0, 0.1] == found.propensity.tolist()
    assert [True, False, True] == found.coin.tolist()
    assert (1, 30.0) == (noise.low_mass, found.size)


@pytest.mark.parametrize(
    ("confidence", "error", "propensity", "message"),
    [
        pytest.param([], [], [], "no labelled row", id="empty"),
        pytest.param([0.5], [math.nan], [1.0], "no labelled row", id="unlabelled"),
        pytest.param([0.5, 0.5], [0, 1], [1.0, 0.0], "row 2", id="propensity"),
        pytest.param([math.nan], [0], [1.0], "row 1", id="confidence"),
    ],
)
def test_a_log_that_cannot_be_judged_is_refused(
    confidence: list[float], error: list[float], propensity: list[float], message: str
) -> None:
    coins = np.ones(len(error), bool)

    with pytest.raises(DataError, match=message):
        Log(np.array(confidence), np.array(error, float), np.array(propensity), coins)


def test_columns_have_one_length() -> None:
    with pytest.raises(InvalidValueError):
        Log(np.zeros(2), np.zeros(1), np.ones(2), np.ones(2, bool))


@pytest.mark.parametrize(
    "terms", [{"audit_rate": -0.1}, {"confidence": 1.0}, {"student_cost": math.nan}], ids=str
)
def test_terms_that_cannot_be_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError):
        Terms(**terms)
