"""Real bundles without training: a small ONNX graph, a small WordPiece, a head that knows words.

The encoder is a bag of embeddings: each word of `WORDS` has its own axis, so a text's label is the
topic most of its words belong to, and everything runs through the real tokenizer and runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from understudy.edge.bundle import (
    GoldenVector,
    Head,
    encode_calibration,
    encode_certificate,
    encode_golden,
    encode_head,
    read_bundle,
    write_bundle,
)
from understudy.edge.parts import encode_embeddings
from understudy.edge.student import Student
from understudy.types.bundle import (
    CALIBRATION,
    CERTIFICATE,
    EMBEDDINGS,
    ENCODER,
    GOLDEN,
    HEAD,
    TOKENIZER,
)
from understudy.types.contract import Calibration, Certificate, Contract

TASK = "support"
TOPICS: Mapping[str, tuple[str, ...]] = {
    "card": ("card", "swallowed", "machine", "chip", "pin"),
    "transfer": ("transfer", "money", "sent", "account", "bank"),
    "refund": ("refund", "return", "back", "shop", "item"),
}
LABELS = tuple(TOPICS)
WORDS = tuple(word for words in TOPICS.values() for word in words)
MAX_TOKENS = 16
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
VOCABULARY = (*_SPECIALS, *WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS))
SIZE = len(WORDS) + 1


def build_bundle(  # noqa: PLR0913 - every part may be replaced
    directory: Path,
    *,
    threshold: float = 0.5,
    certified: bool = True,
    prototypes: bool = False,
    seed: int = 0,
    static: bool = False,
    golden: Sequence[GoldenVector] | None = None,
    replace: Mapping[str, bytes] | None = None,
    parent: str = "",
    **manifest: Any,
) -> str:
    """Writes a small working bundle and returns its id.

    Args:
        directory: Where to.
        threshold: Threshold of the certificate, when certified.
        certified: Whether the contract holds at a threshold at all.
        prototypes: Whether the head has one prototype a topic.
        seed: Another seed gives another head, so another id, with the same answers.
        static: Build an embedding bag without a graph.
        golden: Golden vectors to write; measured from the bundle itself when omitted.
        replace: Bytes by file name to use in place of the real ones.
        parent: Id of the champion it grew from.
        manifest: Further fields of the manifest.
    """
    files = {
        **_encoder_file(static=static),
        HEAD: encode_head(topic_head(prototypes=prototypes, seed=seed)),
        TOKENIZER: tokenizer_json(),
        CALIBRATION: encode_calibration(Calibration(score="margin")),
        CERTIFICATE: encode_certificate(certificate(threshold, certified=certified)),
        GOLDEN: encode_golden(golden or ()),
    }
    fields: dict[str, Any] = {
        "task": TASK,
        "labels": LABELS,
        "max_tokens": MAX_TOKENS,
        "vector_size": SIZE,
        "runtime": "static" if static else "onnx",
        "parent": parent,
        **manifest,
    }
    if golden is None:
        files[GOLDEN] = encode_golden(_measure(directory, files, fields))
    return write_bundle(directory, files={**files, **(replace or {})}, **fields)


def certificate(threshold: float = 0.5, *, certified: bool = True) -> Certificate:
    """A certificate as a night would issue it."""
    return Certificate(
        contract=Contract(),
        certified=certified,
        threshold=threshold if certified else math.inf,
        risk_upper_bound=0.015 if certified else 0.0,
        keep_rate=0.7 if certified else 0.0,
        rows=1000,
        errors=7 if certified else 0,
        rows_missing=0 if certified else 120,
    )


def topic_head(*, prototypes: bool = False, seed: int = 0) -> Head:
    """Each class looks at the axes of its own words; the seed only moves the last digits."""
    jitter = np.random.default_rng(seed).normal(0, 1e-3, (len(LABELS), SIZE))
    rows = np.stack([_topic_axis(words) for words in TOPICS.values()])
    kept = rows if prototypes else rows[:0]
    return Head(
        weight=(12 * rows + jitter).astype(np.float32),
        bias=np.zeros(len(LABELS), np.float32),
        prototypes=kept.astype(np.float32),
        prototype_labels=np.arange(len(kept), dtype=np.int64),
        mix=0.3 if prototypes else 0.0,
        sharpness=8.0,
    )


def word_vectors() -> np.ndarray[Any, np.dtype[np.float32]]:
    """One row a token: an own axis for each topic word, a shared faint one for the rest."""
    table = np.zeros((len(VOCABULARY), SIZE), np.float32)
    table[:, -1] = 0.1
    for axis, word in enumerate(WORDS):
        table[VOCABULARY.index(word)] = np.eye(SIZE, dtype=np.float32)[axis]
    return table


def encoder_graph(*, external: bool = False, domain: str = "") -> onnx.ModelProto:
    """Gather, mask, sum, normalise: `input_ids`, `attention_mask` (B, T) to `sent_vec` (B, D)."""
    table = numpy_helper.from_array(word_vectors(), "table")
    if external:
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
        table.external_data.add(key="location", value="../../etc/passwd")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"], domain=domain),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["sent_vec"], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "T"])
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("sent_vec", TensorProto.FLOAT, ["B", SIZE])],
        [
            table,
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "middle"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tokenizer_json() -> bytes:
    """A WordPiece over `VOCABULARY`, as the `tokenizers` library writes it."""
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": i,
                    "content": t,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for i, t in enumerate(_SPECIALS)
            ],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: index for index, token in enumerate(VOCABULARY)},
            },
        },
        sort_keys=True,
    ).encode()


def _encoder_file(*, static: bool) -> dict[str, bytes]:
    if static:
        return {EMBEDDINGS: encode_embeddings(word_vectors())}
    return {ENCODER: encoder_graph().SerializeToString(deterministic=True)}


def _topic_axis(words: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    row = np.zeros(SIZE)
    row[[WORDS.index(word) for word in words]] = 1 / math.sqrt(len(words))
    return row


def _measure(
    directory: Path, files: Mapping[str, bytes], fields: Mapping[str, Any]
) -> list[GoldenVector]:
    scratch = directory.with_name(f"{directory.name}.unmeasured")
    write_bundle(scratch, files=files, **fields)
    student = Student.load(read_bundle(scratch))
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    texts = [" ".join(words) for words in TOPICS.values()] + ["qqq", "the money came back"]
    rows = student.run(texts).logits
    return [GoldenVector(t, tuple(map(float, row))) for t, row in zip(texts, rows, strict=True)]
