"""Which rows are worth a teacher's answer: those the champion doubts, or its parts quarrel over.

The committee costs nothing: the head's linear part, its prototypes and the two together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.head import apply_head
from understudy.edge.bundle import Head
from understudy.edge.student import StudentOutput
from understudy.types.errors import ConfigError

Numbers = NDArray[np.float64]
STRATEGIES = ("margin", "committee", "margin+committee", "random")


def choose(head: Head, output: StudentOutput, budget: int, strategy: str, seed: int) -> list[int]:
    """Places of the rows to label, most wanted first.

    Args:
        head: The champion's head.
        output: What the champion says of the rows.
        budget: How many to choose.
        strategy: One of `STRATEGIES`.
        seed: Of `random`, and of ties.

    Raises:
        ConfigError: If there is no such strategy.
    """
    noise = np.random.default_rng(seed).random(len(output.logits))
    match strategy:
        case "margin":
            wanted = doubt(output.logits)
        case "committee":
            wanted = quarrel(head, output)
        case "margin+committee":
            wanted = doubt(output.logits) + quarrel(head, output)
        case "random":
            wanted = noise
        case other:
            raise ConfigError(
                f"data.strategy is '{other}'; known strategies: {', '.join(STRATEGIES)}"
            )
    order = np.lexsort((noise, -wanted))
    return [int(i) for i in order[:budget]]


def doubt(logits: NDArray[np.float32]) -> Numbers:
    """1 minus the gap of the two best probabilities, in [0, 1]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    top = np.partition(shifted / shifted.sum(1, keepdims=True), -2, axis=1)[:, -2:]
    result: Numbers = 1.0 - (top[:, 1] - top[:, 0])
    return result


def quarrel(head: Head, output: StudentOutput) -> Numbers:
    """Share of the committee's other members that name another class than the whole head does."""
    whole = output.logits.argmax(1)
    members = [
        apply_head(
            Head(
                head.weight, head.bias, head.prototypes, head.prototype_labels, mix, head.sharpness
            ),
            output.vectors,
        )[0].argmax(1)
        for mix in (0.0, 1.0)
    ]
    votes: Numbers = np.mean([member != whole for member in members], axis=0)
    return votes
