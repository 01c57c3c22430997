"""Which way to compress: the usual one, unless another is measured to be better in every respect.

Sizes, times and closeness are taken on this machine, on real texts, by the runtime of the edge. A
faster graph that answers differently, or a truer one that is larger, replaces nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from understudy.distill_loop.compress import compress
from understudy.distill_loop.export import INPUTS, OUTPUT, open_graph
from understudy.distill_loop.recipe import CompressRecipe
from understudy.distill_loop.student import tokenise

WAYS = ("int8_dynamic", "int8_static", "int4")
"""What `auto` tries; the first is what stays without proof."""
FASTER, AS_TRUE = 0.97, 0.002
TIMED_TEXTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One way to compress, measured.

    Attributes:
        use: Its name.
        size: Bytes of the graph.
        ms: Median time of one text, milliseconds.
        cosine: Mean cosine of its sentence vectors to those before.
        worst_cosine: The lowest.
    """

    use: str
    size: int
    ms: float
    cosine: float
    worst_cosine: float


def pick(tried: Sequence[Tried]) -> Tried:
    """The first, unless a later one is no larger, faster, and as true; then that one, and so on."""
    best = tried[0]
    for other in tried[1:]:
        true = other.cosine >= best.cosine - AS_TRUE
        if true and other.size <= best.size and other.ms < FASTER * best.ms:
            best = other
    return best


def pack(
    graph: bytes, recipe: CompressRecipe, tokenizer: str, texts: Sequence[str]
) -> tuple[bytes, tuple[Tried, ...]]:
    """Compresses a graph as the recipe says; `auto` tries all ways and measures.

    Returns:
        The graph that ships, and what was tried with its figures, the chosen one first.

    Raises:
        ConfigError: If the recipe names no known method.
        BundleError: If a result is not a working encoder.
    """
    ways = WAYS if recipe.use == "auto" else (recipe.use,)
    made = {use: compress(graph, replace(recipe, use=use), tokenizer, texts) for use in ways}
    times = _times({use: small for use, (small, _) in made.items()}, tokenizer, texts)
    tried = [
        Tried(
            use=use,
            size=len(small),
            ms=times[use],
            cosine=parity.cosine,
            worst_cosine=parity.worst_cosine,
        )
        for use, (small, parity) in made.items()
    ]
    best = pick(tried)
    return made[best.use][0], (best, *(one for one in tried if one is not best))


def _times(graphs: Mapping[str, bytes], tokenizer: str, texts: Sequence[str]) -> dict[str, float]:
    """Median time of one text by each graph; they take turns, so that a busy moment hits all."""
    sessions = {use: open_graph(graph) for use, graph in graphs.items()}
    times: dict[str, list[float]] = {use: [] for use in sessions}
    rows = tokenise(tokenizer, texts[:TIMED_TEXTS]).ids
    for ids in [*rows[:2], *rows]:
        inputs = dict(zip(INPUTS, (np.array([ids]), np.ones((1, len(ids)), np.int64)), strict=True))
        for use, session in sessions.items():
            begun = time.perf_counter()
            session.run([OUTPUT], inputs)
            times[use].append((time.perf_counter() - begun) * 1e3)
    return {use: float(np.median(kept[2:] or kept)) for use, kept in times.items()}
