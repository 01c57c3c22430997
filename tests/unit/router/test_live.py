"""Evidence, the live certificate and the drift alarm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from understudy.router.drift import DriftDetector
from understudy.router.evidence import NEVER_KEPT, Evidence, RowUse, evidence, is_error, use_of
from understudy.router.live import LiveRisk, default_grid
from understudy.types.contract import Contract, RiskKind
from understudy.types.decision import NEVER_KEEP, RecordKind
from understudy.types.errors import InvalidValueError
from unit.router.rows import row

FIVE = Contract(max_quality_loss=0.05)
GRID = (0.9, 0.5)
RIGHT, WRONG = Evidence(0.95, error=False), Evidence(0.95, error=True)


def after(live: LiveRisk, *rows: Evidence) -> LiveRisk:
    for one in rows:
        live = live.observe(one)
    return live


@pytest.mark.parametrize(
    ("changes", "confidence", "weight", "requests"),
    [
        pytest.param({}, 0.9, 1.0, 10.0, id="audit"),
        pytest.param({"confidence": 0.2}, 0.2, 0.1, 1.0, id="escalation"),
        pytest.param(
            {"confidence": 0.2, "threshold": NEVER_KEEP}, 0.2, 1.0, 1.0, id="nothing-is-kept"
        ),
        pytest.param(
            {"kind": RecordKind.ESCALATION, "propensity": 1.0, "coin": False},
            NEVER_KEPT,
            0.1,
            1.0,
            id="escaped-above-the-threshold",
        ),
        pytest.param({"confidence": 0.0, "top": ()}, NEVER_KEPT, 0.1, 1.0, id="no-answer"),
    ],
)
def test_a_row_counts_by_how_it_was_seen(
    changes: dict[str, object], confidence: float, weight: float, requests: float
) -> None:
    found = evidence(row(**changes).record, error=True)  # type: ignore[arg-type]

    assert confidence == found.confidence
    assert (weight, requests) == pytest.approx((found.weight, found.requests))


def test_a_missing_label_is_an_error() -> None:
    assert (False, True, True) == tuple(is_error(row(agree=a)) for a in (True, False, None))


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        pytest.param({}, RowUse.COUNTED, id="counted"),
        pytest.param({"bundle": "other"}, RowUse.OTHER_BUNDLE, id="other-bundle"),
        pytest.param({"kind": RecordKind.DEGRADED}, RowUse.DEGRADED, id="degraded"),
        pytest.param({"coin": False}, RowUse.INCONSISTENT, id="inconsistent"),
        pytest.param({"confidence": 0.1, "rate": 0.0}, RowUse.INCONSISTENT, id="no-rate"),
    ],
)
def test_only_rows_of_the_policy_count(changes: dict[str, object], use: RowUse) -> None:
    assert use is use_of(row(**changes).record, "bundle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": 1.5},
        {"confidence": math.nan},
        {"weight": 0.0},
        {"weight": 1.1},
        {"requests": 0.5},
    ],
    ids=str,
)
def test_evidence_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError):
        replace(RIGHT, **changes)  # type: ignore[arg-type]


def test_clean_labels_prove_the_contract_in_the_end() -> None:
    live = LiveRisk.start(FIVE, GRID)

    assert NEVER_KEEP == live.threshold
    assert NEVER_KEEP == after(live, *[RIGHT] * 59).threshold
    assert 0.5 == after(live, *[RIGHT] * 150).threshold


def test_every_attempt_of_a_bundle_spends_its_share_of_doubt() -> None:
    # An account begun anew after each alarm would else prove anything in the end.
    attempts = [LiveRisk.start(FIVE, GRID, attempt=n).delta for n in range(1, 1000)]

    assert attempts[0] == pytest.approx(0.025)
    assert sum(attempts) < 0.05


def test_proof_ends_at_the_first_threshold_without_it() -> None:
    # Errors between the two thresholds speak against the lower only.
    unsure = Evidence(0.6, error=True)
    live = after(LiveRisk.start(FIVE, GRID), *[unsure] * 20, *[RIGHT] * 150)

    assert 0.9 == live.threshold


def test_a_gap_in_the_walk_is_not_jumped() -> None:
    # The walk is what pays for looking at many thresholds; proof below a gap is no proof.
    live = LiveRisk(0.05, 0.05, False, GRID, np.array([[0.0] * 5, [5.0] * 5]))

    assert NEVER_KEEP == live.threshold


def test_an_escalation_says_little_and_never_against() -> None:
    # It was not kept at the threshold in force, whatever the teacher said.
    sure = after(LiveRisk.start(FIVE, (0.9,)), *[Evidence(0.2, error=True, weight=0.1)] * 50)

    assert (
        0.0
        < sure.log_evidence[0]
        < after(LiveRisk.start(FIVE, (0.9,)), *[RIGHT] * 50).log_evidence[0]
    )


def test_selective_proof_counts_kept_rows_only_and_pays_for_its_grid() -> None:
    selective = replace(FIVE, kind=RiskKind.SELECTIVE)
    start = LiveRisk.start(selective, GRID)
    escalated = Evidence(0.2, error=False, weight=0.1)

    assert 0.0 == pytest.approx(after(start, *[escalated] * 50).log_evidence[0])
    assert start.log_proof == pytest.approx(math.log(2 / 0.025))
    loose_only = replace(start, log_wealth=np.array([[0.0] * 5, [5.0] * 5]))
    assert 0.5 == loose_only.threshold


def test_a_live_account_survives_a_restart() -> None:
    live = after(LiveRisk.start(FIVE, GRID), RIGHT, WRONG, RIGHT)
    restored = LiveRisk.from_dict(live.to_dict())

    assert live.to_dict() == restored.to_dict()
    assert "[[" in repr(restored.log_wealth)


@pytest.mark.parametrize(
    "grid", [(), (0.5, 0.9), (0.5, 0.5), tuple(np.linspace(1, 0, 102))], ids=len
)
def test_a_grid_walks_down_and_is_short(grid: tuple[float, ...]) -> None:
    # A grid of hundreds would never prove anything of a selective risk.
    with pytest.raises(InvalidValueError):
        LiveRisk.start(FIVE, grid)


def test_wealth_must_fit_its_grid() -> None:
    with pytest.raises(InvalidValueError):
        LiveRisk(0.05, 0.05, False, GRID, np.zeros((1, 5)))


def test_the_usual_grid_ends_at_the_certified_threshold() -> None:
    assert (1.0, 0.6) == (default_grid(0.6)[0], default_grid(0.6)[-1])
    assert 0.0 == default_grid(NEVER_KEEP)[-1]
    assert (1.0,) == default_grid(1.0)


def test_the_alarm_comes_when_kept_answers_are_wrong_too_often() -> None:
    detector = DriftDetector(0.05, run_length=1000.0)
    heard = 0
    while not detector.alarm:
        detector = detector.observe(WRONG if heard % 4 == 0 else RIGHT, 0.5)
        heard += 1

    assert heard < 60


def test_what_was_escalated_raises_no_alarm() -> None:
    detector = DriftDetector(0.05, run_length=1000.0)
    for _ in range(500):
        detector = detector.observe(Evidence(0.2, error=True, weight=0.1), 0.5)

    assert not detector.alarm


def test_evidence_of_drift_cannot_overflow() -> None:
    detector = DriftDetector(0.05)
    for _ in range(5000):
        detector = detector.observe(WRONG, 0.5)

    assert math.isfinite(detector.level)
    assert detector.alarm


def test_a_detector_survives_a_restart() -> None:
    detector = DriftDetector(0.05).observe(WRONG, 0.5)

    assert detector == DriftDetector.from_dict(detector.to_dict())


@pytest.mark.parametrize(
    "changes",
    [{"rate": 0.0}, {"run_length": 0.0}, {"evidence": (1.0,)}, {"evidence": (-1.0,) * 5}],
    ids=str,
)
def test_a_detector_that_cannot_work_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        replace(DriftDetector(0.05), **changes)  # type: ignore[arg-type]
