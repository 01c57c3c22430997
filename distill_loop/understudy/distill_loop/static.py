"""The static student: a table of word-piece vectors and their mean; no layers, no graph.

The table starts from the base's own vector of each piece alone and learns like any student, by the
cosine to whole sentences. It is blind to order, and ten times faster than anything with a layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from understudy.distill_loop.base import Base
from understudy.distill_loop.encoder import Encoder, EncoderSpec, Trace
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.student import StudentModel, whole_base
from understudy.distill_loop.vocabulary import trim_vocabulary

_SPECIAL = 4
_COMMON = 1e-3


class StaticEncoder(Encoder):
    """An encoder whose only weights are its word vectors."""

    def __init__(self, spec: EncoderSpec) -> None:
        nn.Module.__init__(self)
        self.spec = spec
        self.words = nn.Embedding(spec.vocabulary, spec.vector)
        self.places = nn.Embedding(1, 1)
        self.blocks = nn.ModuleList()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        trace: Trace | None = None,  # noqa: ARG002 - there is nothing inside to trace
    ) -> Tensor:
        """Unit mean of the tokens' rows, (B, vector); `trace` stays empty."""
        rows = self.words(input_ids) * attention_mask.unsqueeze(-1).float()
        summed: Tensor = rows.sum(1)
        return summed / summed.norm(dim=-1, keepdim=True).clamp(min=1e-9)

    def table(self) -> Tensor:
        """The rows, (V, vector)."""
        return self.words.weight.detach()


def static(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Builds the table; common pieces weigh less, by their rank in the base's vocabulary.

    The table is an embedding: it learns only with `distil.embedding_rate` above zero.
    """
    vocabulary = trim_vocabulary(base.tokenizer, texts, recipe.vocabulary, recipe.max_tokens)
    spec = EncoderSpec(
        vocabulary=len(vocabulary.kept),
        positions=recipe.max_tokens,
        hidden=base.hidden,
        vector=base.hidden,
        heads=(),
        head_size=1,
        ffn=(),
        uses=(),
        static=True,
    )
    encoder = StaticEncoder(spec)
    with torch.no_grad():
        encoder.words.weight.copy_(_piece_vectors(base, vocabulary.kept))
    return StudentModel(encoder.eval(), vocabulary.tokenizer)


def _piece_vectors(base: Base, kept: tuple[int, ...], batch: int = 512) -> Tensor:
    """The base's vector of every piece alone, smoothed as in SIF with Zipf's law for frequency."""
    model = whole_base(base)
    ids = torch.tensor(kept)
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            one = ids[start : start + batch, None]
            parts.append(model.encoder(one, torch.ones_like(one)))
    rank = torch.arange(1, len(kept) + 1, dtype=torch.float32)
    frequency = 1.0 / (rank * torch.log(torch.tensor(float(len(kept)))))
    weight = _COMMON / (_COMMON + frequency)
    weight[:_SPECIAL] *= 0.1
    return torch.cat(parts).clone() * weight.unsqueeze(-1)
