"""Further texts like those at hand: noise that keeps the label, and re-mixing that does not.

A student that should agree with the base on sentence vectors can learn from any text, and what it
lacks with few rows is text. Noise (slips of the keyboard, dropped words, neighbours in the base's
embedding) keeps the label; crossing two texts makes a new one without label, for the vectors only.
Variants are made first and encoded by the base afterwards: a vector belongs to the text it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from understudy.distill_loop.rows import Example, Origin

_ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    key: "".join(row[max(0, i - 1) : i] + row[i + 1 : i + 2])
    for row in _ROWS_OF_KEYS
    for i, key in enumerate(row)
}
Neighbours = Mapping[str, tuple[str, ...]]
Op = Callable[[list[str], np.random.Generator], list[str]]


def augment(
    rows: Sequence[Example], factor: int, seed: int, neighbours: Neighbours | None = None
) -> tuple[Example, ...]:
    """Makes `factor` variants of every row; every other one is a cross without label.

    Args:
        rows: Rows to vary.
        factor: Variants a row.
        seed: Of every random choice.
        neighbours: Words that may stand for a word; from `word_neighbours`.
    """
    generator = np.random.default_rng(seed)
    made: list[Example] = []
    for number in range(factor):
        for row in rows:
            other = rows[int(generator.integers(len(rows)))]
            if number % 2:
                made.append(_cross(row, other, number, generator))
            else:
                made.append(_noisy(row, number, neighbours or {}, generator))
    return tuple(made)


def slip(words: list[str], generator: np.random.Generator) -> list[str]:
    """One slip of the keyboard in one word: a neighbouring key, a swap, or a letter lost."""
    places = [i for i, word in enumerate(words) if len(word) > 3]
    if not places:
        return words
    place = places[int(generator.integers(len(places)))]
    word = words[place]
    at = int(generator.integers(1, len(word) - 1))
    beside = _BESIDE.get(word[at].lower(), "")
    wrong = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + (beside[0] if beside else word[at]) + word[at + 1 :],
    )[int(generator.integers(3))]
    return [*words[:place], wrong, *words[place + 1 :]]


def drop(words: list[str], generator: np.random.Generator) -> list[str]:
    """A tenth of the words lost, at least one, never all."""
    if len(words) < 3:
        return words
    kept = [word for word in words if generator.random() > 0.12]
    return kept or words


def cross(left: list[str], right: list[str], generator: np.random.Generator) -> list[str]:
    """The beginning of one text and the end of another."""
    cut = int(generator.integers(1, max(len(left), 2)))
    tail = int(generator.integers(0, max(len(right) - 1, 1)))
    return [*left[:cut], *right[tail:]]


def substitute(
    words: list[str], neighbours: Neighbours, generator: np.random.Generator, share: float = 0.2
) -> list[str]:
    """Some words replaced by a neighbour of theirs."""
    return [
        options[int(generator.integers(len(options)))]
        if (options := neighbours.get(word.lower(), ())) and generator.random() < share
        else word
        for word in words
    ]


def word_neighbours(
    texts: Sequence[str], tokenizer: str, embedding: NDArray[np.float32], most: int = 6
) -> dict[str, tuple[str, ...]]:
    """Nearest whole words in the base's embedding, for every word of the texts that is one piece.

    Args:
        texts: Texts whose words matter.
        tokenizer: The base's `tokenizer.json`.
        embedding: Its word embedding, (V, H).
        most: Neighbours a word.
    """
    pieces = Tokenizer.from_str(tokenizer).get_vocab()
    names = [p for p in pieces if p.isalpha() and p.isascii() and len(p) > 2]
    ids = np.array([pieces[name] for name in names])
    unit = embedding[ids] / np.linalg.norm(embedding[ids], axis=1, keepdims=True)
    place = {name: i for i, name in enumerate(names)}
    words = sorted({w.lower() for text in texts for w in text.split()} & place.keys())
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(words), 256):
        part = words[start : start + 256]
        near = unit[[place[w] for w in part]] @ unit.T
        best = np.argpartition(-near, most, axis=1)[:, : most + 1]
        for word, row in zip(part, best, strict=True):
            found[word] = tuple(names[i] for i in row if names[i] != word)
    return found


def _noisy(
    row: Example, number: int, neighbours: Neighbours, generator: np.random.Generator
) -> Example:
    words = substitute(row.text.split(), neighbours, generator)
    op: Op = slip if generator.random() < 0.5 else drop
    text = " ".join(op(words, generator))
    return replace(row, id=f"{row.id}~{number}", text=text or row.text, origin=Origin.SYNTHETIC)


def _cross(row: Example, other: Example, number: int, generator: np.random.Generator) -> Example:
    words = cross(row.text.split(), other.text.split(), generator)
    return Example(
        id=f"{row.id}~{number}", text=" ".join(words), origin=Origin.UNLABELLED, weight=row.weight
    )
