"""Answers as paths of tokens: which choices a model has to make, and what its choices add up to.

With one token per class the tree is one node deep, and one forward pass scores all classes. Shared
beginnings make more nodes; a node with one way on asks nothing of the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher.distribution import log_softmax
from understudy.types.errors import InvalidValueError

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A place where answers part.

    Attributes:
        path: Tokens that lead here.
        choices: The tokens that may follow; at least two.
    """

    path: Path
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerTrie:
    """The tree of all answers.

    Attributes:
        answers: Tokens of each answer; none begins with another.
        stem: Tokens that all answers begin with; they belong to the prompt.
        branches: Places where answers part, nearest to the root first.
    """

    answers: tuple[Path, ...]
    stem: Path
    branches: tuple[Branch, ...]

    def log_probs(
        self, scores: Mapping[Path, Mapping[int, float]]
    ) -> tuple[NDArray[np.float64], float]:
        """Adds up a model's choices.

        Args:
            scores: By the path of each branch, log-probability of each choice over the model's
                full vocabulary.

        Returns:
            Log-probability of each answer if the model may say nothing else, and the share of its
            distribution at the first choice that fell on answers at all.
        """
        total = np.zeros(len(self.answers))
        for branch in self.branches:
            given = scores[branch.path]
            values = log_softmax(np.array([given[token] for token in branch.choices]))
            gain = dict(zip(branch.choices, values.tolist(), strict=True))
            depth = len(branch.path)
            for index, answer in enumerate(self.answers):
                if len(answer) > depth and answer[:depth] == branch.path:
                    total[index] += gain[answer[depth]]
        first = scores[self.stem]
        mass = sum(np.exp(first[token]) for token in self.branches[0].choices)
        return total, float(mass)


def build_trie(answers: Sequence[Path], end: int | None = None) -> AnswerTrie:
    """Finds where answers part.

    Args:
        answers: At least two different paths of tokens.
        end: Token that ends an answer; needed when one answer begins with another.

    Raises:
        InvalidValueError: If answers are equal, or one begins another and there is no `end`.
    """
    paths = tuple(tuple(answer) for answer in answers)
    if len(paths) < 2 or len(set(paths)) != len(paths) or not all(paths):
        raise InvalidValueError("at least two answers are needed, all different")
    if _one_begins_another(paths):
        if end is None:
            raise InvalidValueError("one answer begins with another; name the token that ends one")
        paths = tuple((*path, end) for path in paths)
    children: dict[Path, dict[int, None]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            children.setdefault(path[:depth], {})[token] = None
    branches = [Branch(path, tuple(tokens)) for path, tokens in children.items() if len(tokens) > 1]
    branches.sort(key=lambda branch: len(branch.path))
    return AnswerTrie(paths, branches[0].path, tuple(branches))


def _one_begins_another(paths: Sequence[Path]) -> bool:
    ordered = sorted(paths)
    return any(b[: len(a)] == a for a, b in itertools.pairwise(ordered))
