"""Pruning by rounds: a little is cut, the student learns again, a little more is cut.

What goes is chosen on the weights as they are by then: the layer whose absence changes sentence
vectors least, the heads and the neurons that weigh least. All rounds together take the steps that
the recipe grants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from understudy.distill_loop.base import Base
from understudy.distill_loop.components import prune_ffn, prune_heads
from understudy.distill_loop.distil import plan_batches
from understudy.distill_loop.encoder import Encoder, EncoderSpec
from understudy.distill_loop.recipe import Recipe, StudentRecipe
from understudy.distill_loop.student import StudentModel, cut_student, encode
from understudy.types.errors import ConfigError

GRADUAL = "gradual"
WATCHED_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, heads a layer, and feed-forward width a layer."""

    depth: int
    heads: int
    ffn: int


def gradual(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """The student before its first round: all of `keep_layers`, whole.

    Options: `depth` layers in the end (default 2), in `rounds` rounds (default 2); `heads` and
    `ffn` of the recipe are what a layer has in the end.

    Raises:
        ConfigError: If the end is larger than the beginning.
    """
    model = cut_student(recipe, base, texts)
    shapes(recipe, model.encoder.spec)
    return model


def shapes(recipe: StudentRecipe, spec: EncoderSpec) -> tuple[Shape, ...]:
    """The shape after each round, the last one the recipe's; none for another kind of student.

    An encoder that has the last shape already, such as a champion's, is not cut again.
    """
    if recipe.use != GRADUAL:
        return ()
    rounds = int(recipe.options.get("rounds", 2))
    start = Shape(len(spec.heads), spec.heads[0], spec.ffn[0])
    end = Shape(
        int(recipe.options.get("depth", min(2, start.depth))),
        recipe.heads or start.heads,
        recipe.ffn or start.ffn,
    )
    for name in ("depth", "heads", "ffn"):
        most, wanted = getattr(start, name), getattr(end, name)
        if not 1 <= wanted <= most:
            raise ConfigError(f"student: {name} must lie in [1, {most}], not {wanted}")
    if rounds < 1:
        raise ConfigError("student.options: rounds must be at least 1")
    if start == end:
        return ()
    return tuple(_between(start, end, (done + 1) / rounds) for done in range(rounds))


def _between(start: Shape, end: Shape, share: float) -> Shape:
    """On the way: layers by even steps, widths by even ratios."""

    def ratio(before: int, after: int) -> int:
        return round(before * (after / before) ** share)

    depth = start.depth - round((start.depth - end.depth) * share)
    return Shape(depth, ratio(start.heads, end.heads), ratio(start.ffn, end.ffn))


def prune_to(model: StudentModel, shape: Shape, texts: Sequence[str]) -> StudentModel:
    """The student cut to a shape, by what matters least now.

    Args:
        model: An ordinary encoder: no layer is shared, none routes.
        shape: No larger in any respect.
        texts: Texts on which the absence of a layer is felt; the first 64 count.
    """
    while len(model.encoder.spec.heads) > shape.depth:
        model = _without_least_layer(model, list(texts[:WATCHED_TEXTS]))
    encoder = model.encoder
    if encoder.spec.heads[0] > shape.heads:
        encoder = prune_heads(encoder, shape.heads)
    if encoder.spec.ffn[0] > shape.ffn:
        encoder = prune_ffn(encoder, shape.ffn)
    return replace(model, encoder=encoder)


def _without_least_layer(model: StudentModel, texts: list[str]) -> StudentModel:
    now = encode(model, texts)
    cut = [_without(model, layer) for layer in range(len(model.encoder.spec.heads))]
    near = [float((encode(one, texts) * now).sum(1).mean()) for one in cut]
    return cut[int(np.argmax(near))]


def _without(model: StudentModel, layer: int) -> StudentModel:
    old = model.encoder
    kept = [i for i in range(len(old.spec.heads)) if i != layer]
    spec = replace(
        old.spec,
        heads=tuple(old.spec.heads[i] for i in kept),
        ffn=tuple(old.spec.ffn[i] for i in kept),
        uses=tuple(range(len(kept))),
    )
    encoder = Encoder(spec)
    shell = {n: v for n, v in old.state_dict().items() if not n.startswith("blocks.")}
    encoder.load_state_dict(shell, strict=False)
    with torch.no_grad():
        for new, place in zip(encoder.blocks, kept, strict=True):
            new.load_state_dict(old.blocks[place].state_dict())
    layers = tuple(model.layer_map[i] for i in kept) if model.layer_map else ()
    return StudentModel(encoder.eval(), model.tokenizer, layers)


def a_round(recipe: Recipe, rows: int, rounds: int) -> Recipe:
    """The recipe of one round: its share of all the steps."""
    steps = len(plan_batches([1] * rows, recipe.distil, recipe.seed))
    share = max(steps // max(rounds, 1), 1)
    return replace(recipe, distil=replace(recipe.distil, min_steps=share, max_steps=share))
