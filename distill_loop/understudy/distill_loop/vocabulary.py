"""A tokenizer with fewer word pieces: the embedding is half of a small encoder.

Kept are the special tokens, every single character (so that any word can still be spelt), every
piece seen in the texts, and frequent pieces up to the size asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from understudy.types.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A trimmed tokenizer.

    Attributes:
        tokenizer: Text of its `tokenizer.json`.
        kept: Row of the base's embedding for each new id.
    """

    tokenizer: str
    kept: tuple[int, ...]


def trim_vocabulary(tokenizer: str, texts: Iterable[str], size: int, max_tokens: int) -> Vocabulary:
    """Keeps about `size` word pieces; 0 keeps all.

    Args:
        tokenizer: Text of the base's `tokenizer.json`; must be a WordPiece model.
        texts: Texts whose pieces are all kept, even above `size`.
        size: Pieces to keep.
        max_tokens: Longest input; written into the new tokenizer as its truncation.

    Raises:
        ConfigError: If the tokenizer is no WordPiece model.
    """
    data: dict[str, Any] = json.loads(tokenizer)
    if data["model"].get("type") != "WordPiece":
        raise ConfigError("only WordPiece tokenizers can be trimmed: set student.vocabulary to 0")
    pieces: dict[str, int] = data["model"]["vocab"]
    kept = _choose(data, _seen(tokenizer, texts), size) if size else sorted(pieces.values())
    return Vocabulary(_rewrite(data, kept, max_tokens), tuple(kept))


def _seen(tokenizer: str, texts: Iterable[str]) -> set[int]:
    reader = Tokenizer.from_str(tokenizer)
    reader.no_truncation()
    reader.no_padding()
    return {i for encoding in reader.encode_batch(list(texts)) for i in encoding.ids}


def _choose(data: dict[str, Any], seen: set[int], size: int) -> list[int]:
    """Old ids to keep, rising; the base's ids are already sorted by frequency."""
    pieces: dict[str, int] = data["model"]["vocab"]
    kept = {int(token["id"]) for token in data["added_tokens"]} | seen
    kept |= {i for piece, i in pieces.items() if len(piece.removeprefix("##")) == 1}
    for piece, i in sorted(pieces.items(), key=lambda item: item[1]):
        if len(kept) >= size:
            break
        if not piece.startswith("[unused"):
            kept.add(i)
    return sorted(kept)


def _rewrite(data: dict[str, Any], kept: Sequence[int], max_tokens: int) -> str:
    new_id = {old: new for new, old in enumerate(kept)}
    pieces: dict[str, int] = data["model"]["vocab"]
    data["model"]["vocab"] = {
        piece: new_id[i] for piece, i in sorted(pieces.items(), key=lambda x: x[1]) if i in new_id
    }
    for token in data["added_tokens"]:
        token["id"] = new_id[token["id"]]
    _rewrite_specials(data.get("post_processor"), new_id)
    data["padding"] = None
    data["truncation"] = {
        "direction": "Right",
        "max_length": max_tokens,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _rewrite_specials(processor: dict[str, Any] | None, new_id: dict[int, int]) -> None:
    """Both forms in use: a template with named special tokens, and BERT's pair of (token, id)."""
    if not processor:
        return
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new_id[i] for i in token["ids"]]
    for end in ("sep", "cls"):
        if end in processor:
            processor[end] = [processor[end][0], new_id[processor[end][1]]]
