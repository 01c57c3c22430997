"""Rules of the margin: it grows with what was late, fades, and never eats the budget."""

from __future__ import annotations

import pytest

from understudy.edge.margin import LARGEST_SHARE, LEAST_S, MOST_S, Margin


def test_a_call_that_came_back_late_makes_the_next_one_leave_earlier() -> None:
    """On a busy machine the way home takes longer than on an idle one."""
    margin = Margin()
    assert margin.of(1.0) == LEAST_S

    margin.note(0.02)
    assert margin.of(1.0) > 0.02


def test_what_was_learned_fades() -> None:
    """A machine that was busy once is not busy for ever."""
    margin = Margin()
    margin.note(0.02)
    for _ in range(200):
        margin.note(0.0)

    assert margin.of(1.0) == LEAST_S


@pytest.mark.parametrize("late_s", [10.0, -10.0])
def test_one_wild_call_moves_it_within_bounds(late_s: float) -> None:
    """A machine that slept comes back minutes late; a server may refuse at once."""
    margin = Margin()
    margin.note(late_s)

    assert LEAST_S <= margin.of(1.0) <= MOST_S


def test_the_teacher_keeps_most_of_a_short_budget() -> None:
    """Else a product with a short budget would never hear it."""
    margin = Margin()
    margin.note(10.0)

    assert margin.of(0.01) == LARGEST_SHARE * 0.01
