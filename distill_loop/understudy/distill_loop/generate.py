"""Examples written by the teacher for classes that have few, each labelled again before use.

A generator writes what it was asked for only most of the time. The second answer decides: the
teacher, shown the text alone, names its class, and that is what is learned.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example, Origin, text_key
from understudy.distill_loop.teacher import NightTeacher

MAX_CHARACTERS = 400
_LINES = 5


def generate(
    teacher: NightTeacher, rows: Sequence[Example], labels: tuple[str, ...], recipe: Recipe
) -> tuple[Example, ...]:
    """New rows for thin classes."""
    by_class: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_class[row.target].append(row)
    thin = [n for n in labels if 0 < len(by_class[n]) < recipe.data.thin_class]
    prompts = _prompts(thin, by_class, recipe.data.generate)
    texts = _fresh(teacher.write(prompts), rows)[: recipe.data.generate]
    answers = teacher.label(texts, labels) if texts else []
    return tuple(
        Example(id=_id(text), text=text, teacher=answer, origin=Origin.SYNTHETIC)
        for text, answer in zip(texts, answers, strict=True)
        if answer is not None
    )


def prompt_for(label: str, examples: Sequence[str], other: str, other_example: str) -> str:
    """Asks for messages near the border to a neighbouring class: they teach most."""
    shown = "\n".join(f"- {text}" for text in examples[:_LINES])
    return (
        f"Messages of the kind '{label}':\n{shown}\n"
        f"A message of another kind, '{other}':\n- {other_example}\n"
        f"Write {_LINES} new, different messages of the kind '{label}', one a line, "
        f"some of them close to '{other}':\n-"
    )


def _prompts(thin: Sequence[str], by_class: dict[str, list[Example]], wanted: int) -> list[str]:
    names = sorted(name for name in by_class if name)
    prompts: list[str] = []
    for turn in range(max(1, wanted // max(1, _LINES * len(thin)))):
        for place, name in enumerate(thin):
            other = names[(names.index(name) + 1 + turn + place) % len(names)]
            examples = [row.text for row in by_class[name]]
            prompts.append(prompt_for(name, examples, other, by_class[other][0].text))
    return prompts[: max(1, wanted // _LINES)] if thin and len(names) > 1 else []


def _fresh(written: Sequence[str], rows: Sequence[Example]) -> list[str]:
    """Lines that say something new, of sensible length."""
    seen = {text_key(row.text) for row in rows}
    texts: list[str] = []
    for line in (line for text in written for line in text.splitlines()):
        plain = line.strip().lstrip("-*0123456789. ").strip()
        if 0 < len(plain) <= MAX_CHARACTERS and text_key(plain) not in seen:
            seen.add(text_key(plain))
            texts.append(plain)
    return texts


def _id(text: str) -> str:
    return f"generated-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
