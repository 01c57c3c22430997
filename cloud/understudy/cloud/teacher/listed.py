"""A distribution over answers from a server's list of likely tokens; pure.

The server's own answer is followed letter by letter. Where its list names the beginning of several
answers and the server went another way, their share is split evenly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.types.errors import TeacherError

# Probability of an answer that no list mentions; its true value is unknown and small.
UNLISTED = 1e-6


@dataclass(frozen=True, slots=True)
class Step:
    """One position of an answer.

    Attributes:
        said: The token the server chose.
        listed: Likely tokens with their log-probabilities.
    """

    said: str
    listed: tuple[tuple[str, float], ...]


def listed_log_probs(
    answers: Sequence[str], steps: Sequence[Step]
) -> tuple[NDArray[np.float64], float]:
    """Log-probability of each answer, and the share of the first list that fell on answers.

    Args:
        answers: Codes of one length, in upper case.
        steps: What the server listed, from the first position on.

    Raises:
        TeacherError: If the lists name none of the answers.
    """
    totals = np.zeros(len(answers))
    _follow(answers, steps, "", 1.0, totals)
    mass = float(totals.sum())
    if mass <= 0.0:
        raise TeacherError("the server's answer names none of the options")
    return np.log(np.maximum(totals, UNLISTED)), min(mass, 1.0)


def _follow(
    answers: Sequence[str],
    steps: Sequence[Step],
    begun: str,
    share: float,
    totals: NDArray[np.float64],
) -> None:
    """Spreads `share` over the answers that begin with `begun`, by what the next step lists."""
    if not steps:
        _split(answers, begun, share, totals)
        return
    step, rest = steps[0], steps[1:]
    # One text may be listed in several spellings, with and without a space before it.
    shares: dict[str, float] = {}
    for token, log_prob in step.listed:
        text = begun + token.strip()
        shares[text] = shares.get(text, 0.0) + share * math.exp(min(log_prob, 0.0))
    said = begun + step.said.strip()
    for text, part in shares.items():
        if text == begun:
            continue
        if text == said and text not in answers:
            _follow(answers, rest, text, part, totals)
        else:
            _split(answers, text, part, totals)


def _split(answers: Sequence[str], begun: str, share: float, totals: NDArray[np.float64]) -> None:
    meant = [index for index, answer in enumerate(answers) if answer.startswith(begun)]
    for index in meant:
        totals[index] += share / len(meant)
