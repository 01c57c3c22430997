"""Students cut from the base's own layers: a copy of what is kept, nothing invented.

The type embedding of row 0 is added to the positions: our inputs have one segment only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from understudy.distill_loop.base import Base
from understudy.distill_loop.encoder import Encoder, EncoderSpec
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.vocabulary import Vocabulary, trim_vocabulary
from understudy.types.errors import ConfigError

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class StudentModel:
    """An encoder with the tokenizer that feeds it.

    Attributes:
        encoder: The network.
        tokenizer: Text of its `tokenizer.json`.
        layer_map: Layer of the base that each depth came from; objectives match against these.
    """

    encoder: Encoder
    tokenizer: str
    layer_map: tuple[int, ...] = ()


def cut_student(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Builds the slim student: kept layers and trimmed vocabulary, weights bit for bit the base's.

    Raises:
        ConfigError: If the recipe names a layer the base does not have.
    """
    wrong = [layer for layer in recipe.keep_layers if not 0 <= layer < base.layers]
    if wrong:
        raise ConfigError(
            f"student.keep_layers names layer {wrong[0]}; the base has 0 to {base.layers - 1}"
        )
    vocabulary = trim_vocabulary(base.tokenizer, texts, recipe.vocabulary, recipe.max_tokens)
    weights = base.weights()
    encoder = Encoder(_spec(recipe, base, vocabulary, weights))
    load_layers(encoder, weights, vocabulary.kept, recipe.keep_layers)
    return StudentModel(encoder.eval(), vocabulary.tokenizer, recipe.keep_layers)


def whole_base(base: Base, max_tokens: int = 128) -> StudentModel:
    """The base itself as a frozen encoder: the teacher of representations."""
    recipe = StudentRecipe(
        keep_layers=tuple(range(base.layers)), vocabulary=0, max_tokens=max_tokens
    )
    model = cut_student(recipe, base, ())
    model.encoder.requires_grad_(requires_grad=False)
    return model


def _spec(
    recipe: StudentRecipe, base: Base, vocabulary: Vocabulary, weights: Weights
) -> EncoderSpec:
    depth = len(recipe.keep_layers)
    width = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
    return EncoderSpec(
        vocabulary=len(vocabulary.kept),
        positions=recipe.max_tokens,
        hidden=base.hidden,
        vector=base.hidden,
        heads=(base.heads,) * depth,
        head_size=base.hidden // base.heads,
        ffn=(width,) * depth,
        uses=tuple(range(depth)),
        epsilon=base.epsilon,
    )


def load_layers(
    encoder: Encoder, weights: Weights, kept: Sequence[int], layers: Sequence[int]
) -> None:
    """Copies embeddings and the named layers of a BERT checkpoint into an encoder."""
    places = weights["embeddings.position_embeddings.weight"][: encoder.spec.positions]
    state: dict[str, NDArray[np.float32]] = {
        "words.weight": weights["embeddings.word_embeddings.weight"][list(kept)],
        "places.weight": places + weights["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    for block, layer in enumerate(layers):
        state |= _layer_state(weights, block, layer)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    encoder.load_state_dict(tensors)


def _layer_state(weights: Weights, block: int, layer: int) -> dict[str, NDArray[np.float32]]:
    source, target = f"encoder.layer.{layer}.", f"blocks.{block}."
    qkv = [source + f"attention.self.{part}." for part in ("query", "key", "value")]
    state = {
        f"{target}attention.qkv.{end}": np.concatenate([weights[part + end] for part in qkv])
        for end in ("weight", "bias")
    }
    names = {
        "attention.output.dense": "attention.out",
        "attention.output.LayerNorm": "attention.norm",
        "intermediate.dense": "ffn.up",
        "output.dense": "ffn.down",
        "output.LayerNorm": "norm",
    }
    for old, new in names.items():
        for end in ("weight", "bias"):
            state[f"{target}{new}.{end}"] = weights[f"{source}{old}.{end}"]
    return state


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of many texts, not yet padded.

    Attributes:
        ids: One tuple a text.
    """

    ids: tuple[tuple[int, ...], ...]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64, (B, longest of these rows)."""
        longest = max(len(self.ids[row]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for position, row in enumerate(rows):
            length = len(self.ids[row])
            ids[position, :length] = torch.tensor(self.ids[row])
            mask[position, :length] = 1
        return ids, mask


def tokenise(tokenizer: str, texts: Sequence[str], max_tokens: int = 0) -> Tokens:
    """Token ids of texts, cut at `max_tokens`; 0 for the tokenizer's own length."""
    cutter = Tokenizer.from_str(tokenizer)
    if max_tokens:
        cutter.enable_truncation(max_tokens)
    encodings = cutter.encode_batch(list(texts))
    return Tokens(tuple(tuple(encoding.ids) for encoding in encodings))


def encode(model: StudentModel, texts: Sequence[str], batch: int = 64) -> NDArray[np.float32]:
    """Sentence vectors, float32 unit rows (N, D), by torch, in batches of like length."""
    tokens = tokenise(model.tokenizer, texts)
    order = sorted(range(len(texts)), key=lambda row: len(tokens.ids[row]))
    vectors = np.zeros((len(texts), model.encoder.spec.vector), np.float32)
    model.encoder.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            vectors[rows] = model.encoder(*tokens.batch(rows)).numpy()
    return vectors
