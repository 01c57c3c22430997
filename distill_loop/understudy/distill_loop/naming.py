"""The names of classes as examples: `card_arrival` is what a customer might say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from understudy.distill_loop.rows import Example, Origin

_JOINT = re.compile(r"[_\-./:\s]+|(?<=[a-z])(?=[A-Z])")
LEAST_LETTERS = 3


def readable_name(label: str) -> str:
    """A class's name as words; empty where it holds none, as `17` or `Q4` do."""
    words = " ".join(part for part in _JOINT.split(label) if part)
    letters = sum(character.isalpha() for character in words)
    return words if letters >= LEAST_LETTERS else ""


def name_examples(labels: Sequence[str]) -> tuple[Example, ...]:
    """One row for each class whose name can be read; they train and never judge."""
    named = ((label, readable_name(label)) for label in labels)
    return tuple(
        Example(id=f"name-{label}", text=text, label=label, origin=Origin.FILE)
        for label, text in named
        if text
    )
