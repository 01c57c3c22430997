"""Teacher noise."""

from __future__ import annotations

import math

import pytest

from understudy.router import noise
from understudy.router.noise import NoiseRule, Sayings, Trust, judge, judge_log
from understudy.types.errors import InvalidValueError
from understudy.types.records import TeacherLabel
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


def test_another_teacher_may_say_something_else() -> None:
    # A better model is no contradiction of the one before it, nor is a new prompt.
    said = [("old", "p", "a"), ("new", "p", "b"), ("new", "q", "c")]
    rows = [
        row(str(n), text="same", teacher=TeacherLabel(who, prompt, (what,), (0.0,)))
        for n, (who, prompt, what) in enumerate(said)
    ]

    assert 0 == judge_log(rows).contradictions


def test_row_by_row_a_contradiction_is_remembered_from_its_second_label_on() -> None:
    sayings = Sayings()
    heard = [sayings.recall(row(str(n), text="same", agree=n != 1)) for n in range(4)]
    gone_on = Sayings(sayings.to_dict()).recall(row("5", text="same", agree=True))

    assert ["", "student", "teacher", "teacher"] == heard
    assert "teacher" == gone_on
    assert "" == sayings.recall(row("6", agree=None))


def test_the_memory_for_contradictions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "REMEMBERED", 10)
    sayings = Sayings()
    for n in range(50):
        sayings.recall(row(str(n)))

    assert 10 == len(sayings.to_dict())
    assert ("student", "") == (sayings.recall(row("49")), sayings.recall(row("1")))


@pytest.mark.parametrize("name", ["min_label_mass", "min_probability"])
def test_a_rule_no_label_can_meet_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        NoiseRule(**{name: 1.5})
