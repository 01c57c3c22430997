"""From audited rows to a certificate, or to what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from understudy.router.bounds import (
    allowed_errors,
    clean_rows,
    risk_lower_bound,
    risk_upper_bound,
    rows_needed,
    tail,
)
from understudy.router.certificate import ALWAYS_ESCALATES, certify, digest_rows
from understudy.types.contract import MOST_SLICES, Contract, RiskKind
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import DataError, InvalidValueError

FIVE = Contract(max_quality_loss=0.05)
SELECTIVE = Contract(max_quality_loss=0.05, kind=RiskKind.SELECTIVE)
AVERAGE = Contract(max_quality_loss=0.05, kind=RiskKind.AVERAGE)


def traffic(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that mean what they say: the chance to agree is 0.6 to 1."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(rows)
    return confidence, rng.random(rows) < 0.6 + 0.4 * confidence


def test_the_bound_is_the_textbook_one() -> None:
    # Clopper-Pearson, as scipy's own binomial test gives it.
    wanted = stats.binomtest(3, 50, alternative="less").proportion_ci(0.95, method="exact").high

    assert wanted == pytest.approx(risk_upper_bound(3, 50, 0.05))
    assert 1.0 == risk_upper_bound(5, 5, 0.05) == risk_upper_bound(0, 0, 0.05)
    assert 0.0 == risk_lower_bound(0, 50, 0.05) < risk_lower_bound(3, 50, 0.05) < 0.06


def test_errors_beyond_the_rows_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(InvalidValueError):
        risk_upper_bound(6, 5, 0.05)


def test_the_tail_is_exact_at_its_ends() -> None:
    assert (0.0, 1.0) == (tail(-1, 10, 0.5), tail(10, 10, 0.5))
    assert 0.5**10 == pytest.approx(tail(0, 10, 0.5))


@pytest.mark.parametrize(("rate", "wanted"), [(0.005, 598), (0.01, 299), (0.02, 149), (0.05, 59)])
def test_clean_rows_a_contract_needs(rate: float, wanted: int) -> None:
    assert wanted == clean_rows(rate, 0.05)
    assert -1 == allowed_errors(wanted - 1, rate, 0.05) < allowed_errors(wanted, rate, 0.05) == 0


def test_rows_needed_grow_with_the_risk_seen_and_end() -> None:
    needed = [rows_needed(0.05, 0.05, observed) or 0 for observed in (0.0, 0.01, 0.025, 0.04)]

    assert needed == sorted(needed)
    assert 59 == needed[0]
    assert 234 == needed[2]
    assert rows_needed(0.05, 0.05, 0.05) is None
    assert rows_needed(0.05, 0.05, 0.05 - 1e-9) is None


def test_the_threshold_is_the_lowest_whose_bound_holds() -> None:
    confidence, agree = traffic(1000)
    found = certify(confidence, agree, FIVE)
    lower = np.sort(confidence[confidence < found.threshold])[::-1]

    kept = confidence >= found.threshold
    errors = int((kept & ~agree).sum())
    assert (found.errors, found.rows) == (errors, 1000)
    assert found.risk_upper_bound == pytest.approx(risk_upper_bound(errors, 1000, 0.05))
    assert found.risk_upper_bound <= 0.05
    assert found.keep_rate == pytest.approx(kept.mean())
    # The next rows down that err break the bound.
    wrong = int(((confidence >= lower[60]) & ~agree).sum())
    assert risk_upper_bound(wrong, 1000, 0.05) > 0.05


def test_a_perfect_student_keeps_everything() -> None:
    found = certify(np.linspace(0, 1, 100), np.ones(100), FIVE)

    assert (0.0, 1.0, 0, True) == (
        found.threshold,
        found.keep_rate,
        found.rows_missing,
        found.certified,
    )


def test_what_cannot_be_certified_says_how_many_rows_are_missing() -> None:
    # Never a silent best effort.
    found = certify([0.9] * 40, [1] * 40, FIVE)

    assert (False, NEVER_KEEP, 0.0, 0.0) == (
        found.certified,
        found.threshold,
        found.keep_rate,
        found.risk_upper_bound,
    )
    assert 19 == found.rows_missing
    assert certify([0.9] * 59, [1] * 59, FIVE).certified


def test_with_no_rows_everything_is_missing() -> None:
    assert 59 == certify([], [], FIVE).rows_missing
    assert (
        177 == certify([], [], SELECTIVE).rows_missing - 0
        or certify([], [], SELECTIVE).rows_missing == 59
    )
    assert 19 == certify([], [], AVERAGE).rows_missing


def test_rows_missing_are_enough_if_errors_keep_coming_as_they_did() -> None:
    first = certify([0.9] * 100, [0] + [1] * 99, Contract(max_quality_loss=0.03))
    total = 100 + first.rows_missing
    errors = round(total / 100)

    assert first.rows_missing > 0
    again = certify([0.9] * total, [0] * errors + [1] * (total - errors), first.contract)
    assert again.certified


@pytest.mark.parametrize("contract", [FIVE, SELECTIVE], ids=["joint", "selective"])
def test_no_rows_are_asked_for_where_none_would_help(contract: Contract) -> None:
    # The student errs too often even where it is surest: it must learn, not be audited more.
    found = certify([0.9] * 1000, [0, 1] * 500, contract)

    assert (False, 0) == (found.certified, found.rows_missing)


def test_rows_the_policy_never_keeps_count_as_rows_and_never_as_errors() -> None:
    found = certify([ALWAYS_ESCALATES] * 50 + [0.9] * 50, [0] * 50 + [1] * 50, FIVE)

    assert (100, 0, 0.5) == (found.rows, found.errors, found.keep_rate)


def test_a_student_that_is_never_kept_is_not_certified() -> None:
    assert not certify([ALWAYS_ESCALATES] * 500, [1] * 500, FIVE).certified
    assert 0 == certify([ALWAYS_ESCALATES] * 500, [1] * 500, FIVE).rows_missing


def test_a_label_that_never_came_is_an_error() -> None:
    # Left out, what gets lost would decide the risk.
    confidence, agree = traffic(400)
    lost = np.where(agree, 1.0, math.nan)

    assert certify(confidence, agree, FIVE) == certify(confidence, lost, FIVE)


def test_rows_of_an_untrustworthy_teacher_are_set_aside_and_counted() -> None:
    confidence, agree = traffic(400)
    reliable = np.arange(400) % 10 > 0
    found = certify(confidence, agree, FIVE, reliable=reliable)

    assert (360, 40) == (found.rows, found.unreliable_rows)
    assert found.threshold == certify(confidence[reliable], agree[reliable], FIVE).threshold


def test_equal_confidences_are_kept_or_escalated_together() -> None:
    # A threshold cannot part them on the edge, so it must not part them here.
    found = certify([0.9] * 100 + [0.5] * 100, [1] * 100 + [1] * 80 + [0] * 20, FIVE)

    assert (0.9, 0.5) == (found.threshold, found.keep_rate)


def test_the_order_of_the_rows_does_not_matter() -> None:
    confidence, agree = traffic(500)
    shuffled = np.random.default_rng(1).permutation(500)

    assert certify(confidence, agree, FIVE) == certify(confidence[shuffled], agree[shuffled], FIVE)


def test_selective_risk_is_that_of_kept_answers() -> None:
    confidence, agree = traffic(4000)
    found = certify(confidence, agree, SELECTIVE)
    kept = confidence >= found.threshold

    assert found.certified
    assert found.threshold > certify(confidence, agree, FIVE).threshold
    wrong = int((kept & ~agree).sum())
    assert found.risk_upper_bound == pytest.approx(risk_upper_bound(wrong, int(kept.sum()), 0.05))


def test_a_selective_walk_does_not_start_at_a_handful_of_rows() -> None:
    # With one error among the very surest, a start there would certify nothing at all.
    confidence = np.linspace(0.0, 1.0, 1000)
    agree = np.ones(1000)
    agree[-2] = 0

    assert certify(confidence, agree, SELECTIVE).keep_rate > 0.95


def test_a_selective_walk_can_be_given_its_grid() -> None:
    confidence, agree = traffic(4000)
    found = certify(confidence, agree, SELECTIVE, grid=[0.2, 0.9, 0.95])

    assert 0.9 == found.threshold
    assert not certify([ALWAYS_ESCALATES], [1], SELECTIVE, grid=[0.5]).certified


def test_a_selective_certificate_says_how_many_rows_are_missing() -> None:
    # Half of the rows are kept, 177 kept rows are the safe start.
    found = certify([0.9] * 50 + [ALWAYS_ESCALATES] * 50, [1] * 100, SELECTIVE)

    assert 254 == found.rows_missing


def test_the_average_is_kept_in_expectation_only() -> None:
    found = certify([0.9] * 19, [1] * 19, AVERAGE)

    assert found.certified
    assert 1 / 20 == pytest.approx(found.risk_upper_bound)
    assert 1 == certify([0.9] * 18, [1] * 18, AVERAGE).rows_missing
    assert 0 == certify([0.9] * 18, [0] * 18, AVERAGE).rows_missing
    assert certify(*traffic(1000), AVERAGE).threshold < certify(*traffic(1000), FIVE).threshold


def sliced(rows: dict[str, tuple[int, float]]) -> tuple[list[float], list[int], list[str]]:
    """Rows by slice: how many, and the share on which the student errs."""
    names = [name for name, (count, _) in rows.items() for _ in range(count)]
    agree = [int(i >= count * share) for count, share in rows.values() for i in range(count)]
    return [0.9] * len(names), agree, names


def test_a_slice_that_errs_more_is_not_kept_with_the_rest() -> None:
    # A good average must not pay for a minority.
    confidence, agree, names = sliced({"": (2000, 0.0), "legal": (300, 0.2)})
    found = certify(confidence, agree, FIVE, slices=names)

    assert (True, 0.9) == (found.certified, found.threshold)
    assert [("legal", NEVER_KEEP, 300, False)] == [
        (s.name, s.threshold, s.rows, s.inherited) for s in found.slices
    ]


def test_a_slice_with_too_few_rows_takes_the_threshold_of_the_whole_and_says_so() -> None:
    confidence, agree, names = sliced({"": (2000, 0.0), "rare": (10, 0.0)})
    found = certify(confidence, agree, FIVE, slices=names)

    assert [(0.9, True)] == [(s.threshold, s.inherited) for s in found.slices]


def test_a_selective_slice_with_too_few_rows_inherits_nothing() -> None:
    # Selective risk does not fall with the threshold, so the whole's proof says nothing of a part.
    confidence, agree, names = sliced({"": (2000, 0.0), "rare": (10, 0.0), "big": (600, 0.0)})
    found = certify(confidence, agree, SELECTIVE, slices=names)

    assert [("big", 0.9, False), ("rare", NEVER_KEEP, True)] == [
        (s.name, s.threshold, s.inherited) for s in found.slices
    ]


def test_a_slice_with_a_handful_of_rows_costs_the_others_nothing() -> None:
    # Names come from products: a typing error must not widen everybody's bound.
    few = {f"typo {n}": (5, 0.0) for n in range(40)}
    confidence, agree, names = sliced({"": (2000, 0.0), "legal": (80, 0.0)} | few)
    found = certify(confidence, agree, FIVE, slices=names)
    legal = next(s for s in found.slices if s.name == "legal")

    assert (0.9, False) == (legal.threshold, legal.inherited)
    assert MOST_SLICES == len(found.slices)


def test_a_certificate_says_how_many_new_labels_are_ordinary() -> None:
    # Of 200 rows under the threshold 10 have labels that the student cannot say.
    # The value at which the search for the threshold stopped is no sample and does not count.
    confidence = [0.9] * 800 + [0.5] * 3 + [0.2] * 200
    new = [False] * 800 + [True] * 3 + [n < 10 for n in range(200)]
    agree = [1] * 800 + [0] * 203
    found = certify(confidence, agree, Contract(max_quality_loss=0.005), new_label=new)

    assert 0.9 == found.threshold
    assert found.new_label_bound == pytest.approx(risk_upper_bound(10, 200, 0.05))


@pytest.mark.parametrize(
    ("agree", "new_label"),
    [
        pytest.param([1] * 300, None, id="nobody-looked"),
        pytest.param([0] * 300, [False] * 300, id="not-certified"),
        pytest.param([1] * 300, [False] * 300, id="nothing-under-the-threshold"),
    ],
)
def test_without_rows_to_tell_from_nothing_is_said_of_new_labels(
    agree: list[int], new_label: list[bool] | None
) -> None:
    assert 1.0 == certify([0.9] * 300, agree, FIVE, new_label=new_label).new_label_bound


@pytest.mark.parametrize(
    ("confidence", "agree", "row"),
    [
        pytest.param([0.5, 1.5], [1, 1], 2, id="confidence"),
        pytest.param([math.nan], [1], 1, id="no-number"),
        pytest.param([0.5, 0.5, 0.5], [1, 0, 2], 3, id="agree"),
    ],
)
def test_a_wrong_row_is_named(confidence: list[float], agree: list[float], row: int) -> None:
    with pytest.raises(DataError, match=f"row {row}:"):
        certify(confidence, agree, FIVE)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"agree": [1]}, id="lengths"),
        pytest.param({"slices": ["a"]}, id="slices"),
        pytest.param({"reliable": [True]}, id="reliable"),
        pytest.param({"trained": [True]}, id="trained"),
        pytest.param({"new_label": [True]}, id="new-label"),
        pytest.param({"looks": 0}, id="looks"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    columns: dict[str, object] = {"confidence": [0.5, 0.6], "agree": [1, 1], "contract": FIVE}

    with pytest.raises(InvalidValueError):
        certify(**{**columns, **changes})  # type: ignore[arg-type]


def test_audited_rows_have_one_name_whatever_their_order() -> None:
    assert digest_rows(["b", "a"]) == digest_rows(["a", "b"]) != digest_rows(["a"])
