"""A server lists its likely tokens; a distribution over answers is read off the list."""

from __future__ import annotations

import math

import numpy as np
import pytest

from understudy.cloud.teacher.listed import UNLISTED, Step, listed_log_probs
from understudy.types.errors import TeacherError


def step(said: str, **listed: float) -> Step:
    return Step(said, tuple((token.replace("_", " "), math.log(p)) for token, p in listed.items()))


def test_spellings_of_one_answer_are_added_up() -> None:
    """' A' and 'A' are different tokens that mean the same option."""
    log_probs, mass = listed_log_probs(["A", "B"], [step("A", A=0.5, _A=0.2, B=0.1)])

    assert [0.7, 0.1] == pytest.approx(np.exp(log_probs).tolist())
    assert mass == pytest.approx(0.8)


def test_an_option_nobody_listed_keeps_a_small_share() -> None:
    """Minus infinity would say that the teacher had ruled it out; it was only not listed."""
    log_probs, _ = listed_log_probs(["A", "B"], [step("A", A=0.9)])

    assert log_probs[1] == pytest.approx(math.log(UNLISTED))


def test_a_code_of_two_tokens_is_followed_along_the_servers_answer() -> None:
    steps = [step("A", A=0.8, B=0.2), step("B", A=0.25, B=0.75)]

    log_probs, mass = listed_log_probs(["AA", "AB", "BA", "BB"], steps)

    assert [0.2, 0.6, 0.1, 0.1] == pytest.approx(np.exp(log_probs).tolist())
    assert mass == pytest.approx(1.0)


def test_an_answer_cut_short_is_split_among_what_it_began() -> None:
    log_probs, _ = listed_log_probs(["AA", "AB"], [step("A", A=0.8)])

    assert [0.4, 0.4] == pytest.approx(np.exp(log_probs).tolist())


@pytest.mark.parametrize("steps", [[step("Sorry", Sorry=0.9, I=0.1)], [step("", _=0.9)]])
def test_chatter_instead_of_an_option_is_an_error(steps: list[Step]) -> None:
    with pytest.raises(TeacherError, match="none of the options"):
        listed_log_probs(["A", "B"], steps)
