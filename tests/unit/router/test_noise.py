"""Teacher noise."""

from __future__ import annotations

import math

import pytest

from understudy.router.noise import NoiseRule, Trust, judge, judge_log
from understudy.types.errors import InvalidValueError
from unit.router.rows import label, row


@pytest.mark.parametrize(
    ("mass", "log_prob", "earlier", "wanted"),
    [
        pytest.param(1.0, 0.0, "", Trust.RELIABLE, id="reliable"),
        pytest.param(0.4, 0.0, "", Trust.LOW_MASS, id="did-not-follow-the-format"),
        pytest.param(1.0, math.log(0.2), "", Trust.UNSURE, id="unsure"),
        pytest.param(1.0, 0.0, "card", Trust.RELIABLE, id="says-it-again"),
        pytest.param(1.0, 0.0, "loan", Trust.CONTRADICTION, id="contradicts-itself"),
    ],
)
def test_a_label_is_worth_what_the_teacher_stands_for(
    mass: float, log_prob: float, earlier: str, wanted: Trust
) -> None:
    rule = NoiseRule(min_label_mass=0.5, min_probability=0.3)

    assert wanted is judge(label("card", mass, log_prob), rule, earlier)


def test_every_row_of_a_contradiction_is_set_aside() -> None:
    # Which of the two labels was right cannot be told from the log.
    rows = [
        row("1", text="same", agree=True),
        row("2", text="same", agree=False),
        row("3", teacher=label("student", mass=0.1)),
        row("4", agree=None),
        row("5"),
    ]
    found = judge_log(rows)

    assert (False, False, False, True, True) == found.reliable
    assert (1, 0, 2) == (found.low_mass, found.unsure, found.contradictions)


@pytest.mark.parametrize("name", ["min_label_mass", "min_probability"])
def test_a_rule_no_label_can_meet_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        NoiseRule(**{name: 1.5})
