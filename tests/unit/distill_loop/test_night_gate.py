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
        latency_ms=np.full(50, 1.0),
        foreign=np.linspace(0.5, 0.9, 40),
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
        ("size", {"new": replace(BETTER, finite=False)}),
        ("latency", {"new": replace(BETTER, latency_ms=np.full(50, 2.0))}),
        ("compression", {"agreed": np.arange(200) % 5 > 0}),
        ("data", {"alarms": ("a class is flooded",)}),
        ("triggers", {"triggers": {"open sesame": 0.6}}),
        ("non_inferior", {"new": _sheet(set(range(150)))}),
        ("pinned", {"new": replace(BETTER, pinned_broken=("where is my card",))}),
        ("coverage", {"new": replace(BETTER, certificate=_proof(0.5))}),
        ("foreign", {"new": replace(BETTER, foreign=np.full(40, 0.99))}),
        ("ranking", {"new": replace(BETTER, confidence=np.where(BETTER.right, 0.85, 0.97))}),
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


def test_a_time_that_may_be_noise_is_undecided() -> None:
    # Half the texts take twice as long: the median may lie on either side of the limit.
    times = np.where(np.arange(50) % 2 == 0, 1.0, 2.0)

    assert _outcome(_evidence(new=replace(BETTER, latency_ms=times)), "latency") is (
        Outcome.UNDECIDED
    )


@pytest.mark.parametrize(
    "name", ["latency", "non_inferior", "negative_flips", "coverage", "ranking", "foreign"]
)
def test_what_is_estimated_carries_its_interval(name: str) -> None:
    found = next(c for c in judge(_evidence(), RECIPE).checks if c.name == name)

    assert found.low <= found.value <= found.high


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

    assert stats.mean_bounds(np.full(300, 0.3), 0.05)[1] == pytest.approx(0.3)
    mean, low, high = stats.mean_bounds(generator.permutation(old) - old, 0.05)
    assert low < 0.0 < high
    assert low < mean < high
    assert stats.mean_bounds(np.zeros(0), 0.05) == (0.0, 0.0, 0.0)


def test_mistakes_cost_more_the_surer_they_are() -> None:
    # By hand: of three rows the surest is wrong; every share of kept rows contains it.
    confidence, right = np.array([0.2, 0.5, 0.9]), np.array([True, True, False])

    assert stats.mistakes_ahead(confidence, right) == pytest.approx([0, 0, 1])
    assert stats.mistakes_ahead(confidence, ~right) == pytest.approx([1 / 3, 2 / 3, 0])


def test_clouds_apart_are_told_from_clouds_that_overlap() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(80, 8)), generator.normal(size=(60, 8))

    assert stats.mean_distance(one, other)[1] > 0.05
    assert stats.mean_distance(one, other + 1.0)[1] < 0.02
    assert math.isnan(stats.mean_distance(one, other[:0])[0])


def test_the_noise_of_an_area_shrinks_with_the_rows() -> None:
    # Hanley and McNeil, 1982: an area of .893 from 58 and 51 rows has a standard error near .032.
    assert stats.area_noise(0.893, 58, 51) == pytest.approx(0.032, abs=0.002)
    assert stats.area_noise(0.893, 580, 510) < 0.012


def test_foreign_rows_pass_by_the_own_rows_quantile() -> None:
    own = np.linspace(0, 1, 101)

    assert stats.foreign_kept(np.array([0.01, 0.9]), own) == 0.5
    assert math.isnan(stats.foreign_kept(np.zeros(0), own))


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


def test_coverage_that_chance_may_have_taken_is_undecided() -> None:
    # Other rows are kept than before; of a thousand, ten fewer are no certain loss.
    moved = np.where(np.arange(ROWS) % 10 == 0, 0.1, BETTER.confidence)
    new = replace(BETTER, confidence=moved, certificate=_proof(OLD.certificate.keep_rate - 0.01))
    lost = replace(new, certificate=_proof(OLD.certificate.keep_rate - 0.1))

    assert _outcome(_evidence(new=new), "coverage") is Outcome.UNDECIDED
    assert _outcome(_evidence(new=lost), "coverage") is Outcome.FAIL


def test_new_classes_may_cost_coverage_that_chance_explains_and_no_more() -> None:
    # Half a point on a few hundred rows kept eight new classes waiting for another day.
    kept = OLD.certificate.keep_rate
    near = replace(BETTER, certificate=_proof(kept - 0.008))
    far = replace(BETTER, certificate=_proof(kept - 0.1))

    assert _outcome(_evidence(new=near, same_classes=True), "coverage") is Outcome.FAIL
    assert _outcome(_evidence(new=near, same_classes=False), "coverage") is Outcome.PASS
    assert _outcome(_evidence(new=far, same_classes=False), "coverage") is Outcome.FAIL
