"""The gate: one failure keeps the champion, one doubt is undecided, and the numbers are right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from understudy.distill_loop import statistics as stats
from understudy.distill_loop.gate import (
    CHECKS,
    Check,
    Evidence,
    Outcome,
    Ruling,
    Sheet,
    judge,
    rule,
)
from understudy.distill_loop.recipe import GateRecipe
from understudy.types.contract import Certificate, Contract

ROWS = 1000


def _proof(keep_rate: float, threshold: float = 0.8) -> Certificate:
    return Certificate(
        contract=Contract(),
        certified=keep_rate > 0,
        threshold=threshold if keep_rate > 0 else math.inf,
        risk_upper_bound=0.02,
        keep_rate=keep_rate,
        rows=ROWS,
        errors=3,
        rows_missing=0,
    )


def _sheet(wrong: set[int], keep_rate: float = 0.6) -> Sheet:
    """A student that errs on these rows of a thousand and is sure of all, rightly."""
    right = np.array([i not in wrong for i in range(ROWS)])
    return Sheet(
        right=right,
        confidence=np.where(right, 0.97, 0.85),
        certificate=_proof(keep_rate),
        encoder_bytes=9_000_000,
        latency_ms=1.0,
        ood_auc=0.9,
    )


OLD = _sheet(set(range(60)))
BETTER = _sheet(set(range(20)))
RECIPE = GateRecipe(max_ece=0.2)


def _evidence(**changes: object) -> Evidence:
    return replace(Evidence(new=BETTER, old=OLD), **changes)  # type: ignore[arg-type] # tests name fields


def _outcome(evidence: Evidence, name: str) -> Outcome:
    return next(c.outcome for c in judge(evidence, RECIPE).checks if c.name == name)


def test_a_better_student_is_promoted() -> None:
    verdict = judge(_evidence(), RECIPE)

    assert verdict.ruling is Ruling.PROMOTE, verdict.reasons
    assert verdict.reasons == ()


def test_a_first_student_has_nobody_to_beat() -> None:
    assert judge(_evidence(old=None), RECIPE).ruling is Ruling.PROMOTE


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("size", {"new": replace(BETTER, encoder_bytes=10**9)}),
        ("latency", {"new": replace(BETTER, latency_ms=2.0)}),
        ("compression", {"agreed": np.arange(200) % 5 > 0}),
        ("data", {"alarms": ("a class is flooded",)}),
        ("triggers", {"triggers": {"open sesame": 0.6}}),
        ("non_inferior", {"new": _sheet(set(range(150)))}),
        ("pinned", {"new": replace(BETTER, pinned_broken=("where is my card",))}),
        ("coverage", {"new": replace(BETTER, certificate=_proof(0.5))}),
        ("foreign", {"new": replace(BETTER, ood_auc=0.7)}),
        ("negative_flips", {"new": _sheet(set(range(60, 160)))}),
        ("calibration", {"new": replace(BETTER, confidence=np.full(ROWS, 0.5))}),
        (
            "slices",
            {
                "new": _sheet(set(range(900, 940))),
                "slices": {"class:a": np.arange(ROWS) >= 900},
            },
        ),
        (
            "gold",
            {
                "old": replace(OLD, gold_right=np.ones(100, np.bool_)),
                "new": replace(BETTER, gold_right=np.arange(100) >= 20),
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_check_can_keep_the_champion(name: str, changes: dict[str, object]) -> None:
    # A check that cannot fail is decoration.
    evidence = _evidence(**changes)

    assert _outcome(evidence, name) is Outcome.FAIL
    assert judge(evidence, RECIPE).ruling is Ruling.KEEP


def test_no_gain_leaves_it_undecided_and_the_champion_stays() -> None:
    verdict = judge(_evidence(new=_sheet(set(range(60)))), RECIPE)

    assert verdict.ruling is Ruling.UNDECIDED
    assert ["gain"] == [c.name for c in verdict.checks if c.outcome is not Outcome.PASS]


def test_too_few_rows_to_judge_is_undecided() -> None:
    few = {
        who: replace(sheet, right=sheet.right[:20], confidence=sheet.confidence[:20])
        for who, sheet in (("old", OLD), ("new", OLD))
    }

    assert _outcome(_evidence(**few), "rows") is Outcome.UNDECIDED


def test_a_caller_s_own_check_counts() -> None:
    def no(_: Evidence, __: GateRecipe) -> Check:
        return Check("ours", Outcome.FAIL, 1, 0, "we say no")

    assert judge(_evidence(), RECIPE, (no,)).ruling is Ruling.KEEP


def test_every_check_has_a_name_of_its_own_and_a_sentence() -> None:
    checks = judge(_evidence(), RECIPE).checks

    assert len({c.name for c in checks}) == len(CHECKS)
    assert all(c.says for c in checks)


@pytest.mark.parametrize(
    ("outcomes", "ruling"),
    [
        ("", Ruling.PROMOTE),
        ("pp", Ruling.PROMOTE),
        ("pu", Ruling.UNDECIDED),
        ("uf", Ruling.KEEP),
        ("pf", Ruling.KEEP),
    ],
)
def test_failure_outweighs_doubt_and_doubt_outweighs_success(outcomes: str, ruling: Ruling) -> None:
    kinds = {"p": Outcome.PASS, "u": Outcome.UNDECIDED, "f": Outcome.FAIL}

    assert rule([Check("c", kinds[o], 0, 0, "") for o in outcomes]) is ruling


def test_mcnemar_has_the_values_worked_out_elsewhere() -> None:
    # 40 broken, 70 fixed: p = .0027; 30 broken, 45 fixed: p = .053.
    def pair(broken: int, fixed: int) -> tuple[np.ndarray, np.ndarray]:
        old = np.array([True] * broken + [False] * fixed + [True] * 100)
        new = np.array([False] * broken + [True] * fixed + [True] * 100)
        return old, new

    assert stats.mcnemar(*pair(40, 70)) == pytest.approx(0.0027, abs=2e-4)
    assert stats.mcnemar(*pair(30, 45)) == pytest.approx(0.053, abs=1e-3)


def test_bounds_are_clopper_pearson_s() -> None:
    exact = binomtest(20, 3080).proportion_ci(0.90, "exact")

    assert stats.upper_bound(20, 3080, 0.05) == pytest.approx(exact.high, abs=1e-9)
    assert stats.lower_bound(20, 3080, 0.05) == pytest.approx(exact.low, abs=1e-9)
    assert (0.0, 1.0) == (stats.lower_bound(0, 10, 0.05), stats.upper_bound(10, 10, 0.05))


def test_no_difference_on_few_rows_is_no_certainty() -> None:
    same = np.ones(20, np.bool_)
    lost, upper = stats.loss_bound(same, same, 0.05)

    assert lost == 0.0
    assert upper > 0.05


def test_holm_stops_at_the_first_that_is_not_significant() -> None:
    found = stats.holm({"a": 0.001, "b": 0.03, "c": 0.02}, 0.05)

    assert ["a", "c", "b"] == found
    assert ["a"] == stats.holm({"a": 0.001, "b": 0.04, "c": 0.03}, 0.05)


def test_a_sure_gain_is_seen_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    old = generator.normal(size=300)

    assert stats.gain_is_sure(old, old + 0.3)
    assert not stats.gain_is_sure(old, generator.permutation(old))
    assert not stats.gain_is_sure(old, old)


def test_a_calibrated_student_has_no_calibration_error_beyond_chance() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1.0, 4000)
    right = generator.random(4000) < confidence

    assert stats.calibration_error(confidence, right) < 2 * stats.calibration_noise(confidence)
    assert stats.calibration_error(confidence, ~right) > 0.2
    assert math.isnan(stats.calibration_error(confidence[:9], right[:9]))


def test_the_area_under_the_curve_counts_pairs() -> None:
    low, high = np.array([0.1, 0.5]), np.array([0.5, 0.9])

    assert stats.area_under_curve(low, high) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_new_classes_may_cost_coverage_that_chance_explains_and_no_more() -> None:
    # Half a point on a few hundred rows kept eight new classes waiting for another day.
    kept = OLD.certificate.keep_rate
    near = replace(BETTER, certificate=_proof(kept - 0.008))
    far = replace(BETTER, certificate=_proof(kept - 0.1))

    assert _outcome(_evidence(new=near, same_classes=True), "coverage") is Outcome.FAIL
    assert _outcome(_evidence(new=near, same_classes=False), "coverage") is Outcome.PASS
    assert _outcome(_evidence(new=far, same_classes=False), "coverage") is Outcome.FAIL
