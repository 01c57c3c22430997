"""Answers as token paths: nothing is asked twice, and what is added up is a distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cloud.teacher.trie import AnswerTrie, Path, build_trie
from understudy.types.errors import InvalidValueError


def scored(trie: AnswerTrie, probabilities: list[float]) -> dict[Path, dict[int, float]]:
    """Gives every choice of every branch a probability."""
    numbers = itertools.cycle(probabilities)
    return {
        branch.path: {token: math.log(next(numbers)) for token in branch.choices}
        for branch in trie.branches
    }


def test_answers_of_one_token_each_are_one_question() -> None:
    trie = build_trie([(7,), (8,), (9,)])

    assert [()] == [branch.path for branch in trie.branches]
    assert (7, 8, 9) == trie.branches[0].choices


def test_tokens_that_all_answers_begin_with_belong_to_the_prompt() -> None:
    """A byte-level tokenizer writes ' A' as two tokens; asking for the space would be wasted."""
    trie = build_trie([(3, 7), (3, 8)])

    assert trie.stem == (3,)
    assert [(3,)] == [branch.path for branch in trie.branches]


def test_only_places_where_answers_part_are_asked() -> None:
    trie = build_trie([(1, 2, 3, 4), (1, 2, 5, 6), (9, 9, 9, 9)])

    assert [(), (1, 2)] == [branch.path for branch in trie.branches]


def test_an_answer_that_begins_another_needs_an_end() -> None:
    """'card' and 'card lost': without an end the two could never be told apart."""
    with pytest.raises(InvalidValueError, match="name the token that ends one"):
        build_trie([(1,), (1, 2)])

    trie = build_trie([(1,), (1, 2)], end=0)
    assert ((1, 0), (1, 2, 0)) == trie.answers


@pytest.mark.parametrize("answers", [[(1,)], [(1,), (1,)], [(1,), ()]])
def test_answers_that_cannot_be_told_apart_are_refused(answers: list[Path]) -> None:
    with pytest.raises(InvalidValueError):
        build_trie(answers)


def test_the_mass_is_what_fell_on_any_answer_at_the_first_choice() -> None:
    trie = build_trie([(1, 2), (1, 3), (4,)])
    scores = {(): {1: math.log(0.3), 4: math.log(0.1)}, (1,): {2: math.log(0.5), 3: math.log(0.1)}}

    log_probs, mass = trie.log_probs(scores)

    assert mass == pytest.approx(0.4)
    assert [0.75 * 5 / 6, 0.75 / 6, 0.25] == pytest.approx(np.exp(log_probs).tolist())


@given(
    st.sets(
        st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), min_size=2, max_size=12
    ),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8),
)
def test_answers_always_share_the_whole_probability(
    answers: set[Path], probabilities: list[float]
) -> None:
    trie = build_trie(sorted(answers), end=0)

    log_probs, _ = trie.log_probs(scored(trie, probabilities))

    assert np.exp(log_probs).sum() == pytest.approx(1.0)
