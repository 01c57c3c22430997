"""Keep or escalate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats

from understudy.router.policy import INVALID, Policy, Score
from understudy.types.contract import (
    Certificate,
    Contract,
    OnUncertified,
    Precedence,
    SliceCertificate,
)
from understudy.types.decision import NEVER_KEEP, Action, Reason
from understudy.types.errors import InvalidValueError
from understudy.types.release import Directive, SliceOrder

KEY = bytes(range(32))
POLICY = Policy(threshold=0.7, audit_rate=0.1, certified=True, audit_key=KEY)
SERVING = replace(POLICY, threshold=NEVER_KEEP, certified=False, on_uncertified=OnUncertified.SERVE)
THRIFTY = replace(POLICY, precedence=Precedence.BUDGET)
FOREIGN = Score(0.99, foreign=True)


@pytest.mark.parametrize(
    ("policy", "score", "action", "reason", "certified"),
    [
        pytest.param(POLICY, Score(0.9), Action.KEEP, Reason.CONFIDENT, True, id="confident"),
        pytest.param(POLICY, Score(0.7), Action.KEEP, Reason.CONFIDENT, True, id="at-threshold"),
        pytest.param(POLICY, Score(0.69), Action.ESCALATE, Reason.UNSURE, False, id="unsure"),
        pytest.param(POLICY, INVALID, Action.ESCALATE, Reason.INVALID_SCORE, False, id="invalid"),
        pytest.param(
            POLICY, FOREIGN, Action.ESCALATE, Reason.OUT_OF_DISTRIBUTION, False, id="foreign"
        ),
        pytest.param(
            replace(POLICY, threshold=0.0),
            INVALID,
            Action.ESCALATE,
            Reason.INVALID_SCORE,
            False,
            id="invalid-under-threshold-zero",
        ),
        pytest.param(
            replace(POLICY, threshold=NEVER_KEEP, certified=False),
            Score(1.0),
            Action.ESCALATE,
            Reason.UNCERTIFIED,
            False,
            id="uncertified",
        ),
        pytest.param(
            replace(POLICY, certified=False),
            Score(1.0),
            Action.ESCALATE,
            Reason.UNCERTIFIED,
            False,
            id="uncertified-with-a-threshold",
        ),
        pytest.param(SERVING, Score(0.1), Action.KEEP, Reason.UNCERTIFIED, False, id="serve"),
        pytest.param(
            SERVING, FOREIGN, Action.ESCALATE, Reason.OUT_OF_DISTRIBUTION, False, id="serve-foreign"
        ),
        pytest.param(
            replace(SERVING, threshold=0.5),
            Score(0.4),
            Action.ESCALATE,
            Reason.UNSURE,
            False,
            id="serve-above-its-threshold",
        ),
        pytest.param(
            replace(POLICY, threshold_floor=0.95),
            Score(0.9),
            Action.ESCALATE,
            Reason.DRIFT,
            False,
            id="floor",
        ),
        pytest.param(
            replace(POLICY, threshold_floor=NEVER_KEEP),
            Score(1.0),
            Action.ESCALATE,
            Reason.DRIFT,
            False,
            id="floor-keeps-nothing",
        ),
        pytest.param(
            replace(POLICY, threshold_floor=0.2),
            Score(0.5),
            Action.ESCALATE,
            Reason.UNSURE,
            False,
            id="a-floor-never-lowers",
        ),
        pytest.param(
            replace(POLICY, revoked=True),
            Score(0.9),
            Action.KEEP,
            Reason.CONFIDENT,
            False,
            id="revoked",
        ),
    ],
)
def test_each_request_gets_the_action_and_reason_of_its_case(
    policy: Policy, score: Score, action: Action, reason: Reason, certified: bool
) -> None:
    found = policy.decide(score, "request")

    assert (action, reason, certified) == (found.action, found.reason, found.certified)


@pytest.mark.parametrize(
    ("score", "budget_threshold", "action", "reason"),
    [
        pytest.param(Score(0.5), 0.4, Action.KEEP, Reason.NO_BUDGET, id="spent"),
        pytest.param(Score(0.3), 0.4, Action.ESCALATE, Reason.UNSURE, id="affordable"),
        pytest.param(Score(0.9), 0.4, Action.KEEP, Reason.CONFIDENT, id="confident-anyway"),
        pytest.param(INVALID, -0.01, Action.KEEP, Reason.NO_BUDGET, id="invalid-all-spent"),
        pytest.param(FOREIGN, 0.4, Action.ESCALATE, Reason.OUT_OF_DISTRIBUTION, id="foreign"),
    ],
)
def test_a_spent_budget_keeps_what_should_have_escalated_and_says_so(
    score: Score, budget_threshold: float, action: Action, reason: Reason
) -> None:
    # `precedence: budget`: never more calls than paid for, never a certificate for the difference.
    found = THRIFTY.decide(score, "request", budget_threshold=budget_threshold)

    assert (action, reason) == (found.action, found.reason)
    assert found.certified == (reason is Reason.CONFIDENT)


def test_quality_takes_precedence_unless_the_user_says_otherwise() -> None:
    assert Action.ESCALATE is POLICY.decide(Score(0.5), "request", budget_threshold=-1.0).action


def test_the_coin_falls_whatever_the_score() -> None:
    # Coin first: were it drawn after the score, the audited rows would be no sample of the traffic.
    ids = [f"id-{n}" for n in range(500)]
    coins = [POLICY.decide(Score(0.99), i).audit for i in ids]

    assert coins == [POLICY.decide(INVALID, i).audit for i in ids]
    assert coins == [replace(POLICY, threshold=0.2).decide(Score(0.5), i).audit for i in ids]
    assert 20 < sum(coins) < 90


def test_coin_and_score_are_independent() -> None:
    confidences = [n % 100 / 100 for n in range(20_000)]
    table = [[0, 0], [0, 0]]
    for n, confidence in enumerate(confidences):
        found = POLICY.decide(Score(confidence), f"id-{n}")
        table[found.action is Action.KEEP][found.audit] += 1

    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_propensity_says_how_a_label_could_have_come() -> None:
    assert 1.0 == POLICY.decide(Score(0.1), "request").propensity
    assert 0.1 == POLICY.decide(Score(0.9), "request").propensity


def test_an_audit_never_changes_the_answer() -> None:
    # Same action and reason whether the coin fell or not.
    found = {POLICY.decide(Score(0.9), f"{n}").audit: n for n in range(200)}
    with_coin = POLICY.decide(Score(0.9), f"{found[True]}")

    assert POLICY.decide(Score(0.9), f"{found[False]}") == replace(with_coin, audit=False)


def test_a_slice_has_its_own_threshold() -> None:
    policy = replace(POLICY, slices={"legal": 0.95, "small": NEVER_KEEP})

    assert Action.ESCALATE is policy.decide(Score(0.9), "r", slice_name="legal").action
    assert Reason.UNCERTIFIED is policy.decide(Score(1.0), "r", slice_name="small").reason
    assert Action.KEEP is policy.decide(Score(0.9), "r", slice_name="unheard of").action


def certificate(threshold: float) -> Certificate:
    return Certificate(
        contract=Contract(on_uncertified=OnUncertified.SERVE, precedence=Precedence.BUDGET),
        certified=threshold != NEVER_KEEP,
        threshold=threshold,
        risk_upper_bound=0.0,
        keep_rate=0.5,
        rows=10,
        errors=0,
        rows_missing=0,
        slices=(SliceCertificate(name="s", threshold=0.9, rows=5, inherited=False),),
    )


def test_a_certificate_becomes_the_policy_it_allows() -> None:
    policy = Policy.from_certificate(certificate(0.6), audit_rate=0.02, audit_key=KEY)

    assert (0.6, True, 0.02) == (policy.threshold, policy.certified, policy.audit_rate)
    assert (OnUncertified.SERVE, Precedence.BUDGET) == (policy.on_uncertified, policy.precedence)
    assert {"s": 0.9} == policy.slices


def test_no_certificate_becomes_a_policy_that_does_not_claim_one() -> None:
    policy = Policy.from_certificate(certificate(NEVER_KEEP), audit_rate=0.02, audit_key=KEY)

    assert not policy.certified


def test_a_directive_is_followed_and_taken_back() -> None:
    alarmed = POLICY.with_directive(
        Directive(certificate_revoked=True, threshold_floor=0.9, audit_rate=0.5)
    )
    calm = alarmed.with_directive(Directive())

    assert (True, 0.9, 0.5) == (alarmed.revoked, alarmed.threshold_floor, alarmed.audit_rate)
    assert (False, 0.0) == (calm.revoked, calm.threshold_floor)


@pytest.mark.parametrize(
    ("slice_name", "floor", "wanted"),
    [
        pytest.param("legal", NEVER_KEEP, (Action.ESCALATE, Reason.DRIFT, False), id="withdrawn"),
        pytest.param("legal", 0.9, (Action.KEEP, Reason.CONFIDENT, False), id="above-its-floor"),
        pytest.param("legal", math.nan, (Action.ESCALATE, Reason.DRIFT, False), id="no-number"),
        pytest.param("other", NEVER_KEEP, (Action.KEEP, Reason.CONFIDENT, True), id="another"),
        pytest.param("", NEVER_KEEP, (Action.KEEP, Reason.CONFIDENT, True), id="no-slice"),
    ],
)
def test_a_withdrawn_slice_concerns_that_slice_alone(
    slice_name: str, floor: float, wanted: tuple[Action, Reason, bool]
) -> None:
    # Raised threshold and `certified=False` for the slice; the whole's proof stands.
    order = Directive(revoked_slices=(SliceOrder("legal", floor),))
    found = POLICY.with_directive(order).decide(Score(0.95), "r", slice_name=slice_name)

    assert wanted == (found.action, found.reason, found.certified)
    assert (slice_name != "legal") is POLICY.with_directive(order).covers(slice_name)


@pytest.mark.parametrize(
    ("floor", "rate", "wanted_floor", "wanted_rate"),
    [
        pytest.param(math.nan, math.nan, NEVER_KEEP, 0.1, id="no-numbers"),
        pytest.param(-5.0, 0.0, 0.0, 0.1, id="below-their-range"),
        pytest.param(0.3, 7.0, 0.3, 1.0, id="above-its-range"),
        pytest.param(0.3, 0.01, 0.3, 0.1, id="fewer-audits"),
    ],
)
def test_a_directive_can_only_be_careful(
    floor: float, rate: float, wanted_floor: float, wanted_rate: float
) -> None:
    # It comes unsigned from the network: nonsense must not stop audits nor lower a threshold.
    found = POLICY.with_directive(Directive(threshold_floor=floor, audit_rate=rate))

    assert (wanted_floor, wanted_rate) == (found.threshold_floor, found.audit_rate)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_policy_without_audits_is_refused(rate: float) -> None:
    # Escalations alone cannot show drift: the student is sure where it is wrong.
    with pytest.raises(InvalidValueError, match="audit_rate"):
        replace(POLICY, audit_rate=rate)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"audit_key": b"short"}, id="key"),
        pytest.param({"threshold": math.nan}, id="threshold"),
        pytest.param({"threshold_floor": math.nan}, id="floor"),
        pytest.param({"slices": {"s": math.nan}}, id="slice"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        replace(POLICY, **change)  # type: ignore[arg-type]


def test_the_key_is_not_shown() -> None:
    assert "audit_key" not in repr(POLICY)


@pytest.mark.parametrize("confidence", [math.nan, -0.1, 1.1, math.inf])
def test_a_confidence_out_of_range_cannot_be_built(confidence: float) -> None:
    with pytest.raises(InvalidValueError):
        Score(confidence)


def test_an_invalid_score_has_no_confidence() -> None:
    with pytest.raises(InvalidValueError):
        Score(0.9, valid=False)
