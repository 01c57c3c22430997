"""The student at work: texts in, logits, sentence vectors and similarities out.

ONNX Runtime runs the encoder, numpy the head; a `static` student is an embedding bag without a
graph. `run` is thread-safe without a lock: the runtime releases the interpreter while it computes,
and nothing here changes after `load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from understudy.edge.bundle import Bundle
from understudy.edge.config import ProfileName
from understudy.edge.cpu import cpu_flags
from understudy.edge.ort import onnxruntime
from understudy.edge.parts import Floats, Head, Ints, decode_embeddings
from understudy.edge.text import readable
from understudy.types.bundle import EMBEDDINGS, ENCODER, TOKENIZER
from understudy.types.errors import BundleError

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sent_vec"

_CHARACTERS_PER_TOKEN = 64
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProfile:
    """How ONNX Runtime may use the machine.

    Attributes:
        threads: Threads inside one operator.
        spin_us: Microseconds an idle pool thread burns waiting for the next operator.
        prepack: Keep weights in a second, faster layout: more speed, more memory.
        batch_tokens: Largest padded batch in tokens.
    """

    threads: int = 1
    spin_us: int = 0
    prepack: bool = True
    batch_tokens: int = 2048


PROFILES = {
    ProfileName.LATENCY: RuntimeProfile(threads=2, spin_us=200),
    ProfileName.BALANCED: RuntimeProfile(),
    ProfileName.SMALL: RuntimeProfile(prepack=False, batch_tokens=512),
}


@dataclass(frozen=True, slots=True, eq=False)
class StudentOutput:
    """What a student says about B texts.

    Attributes:
        logits: float32, shape (B, C); logarithms of probabilities when the head has prototypes.
        vectors: Sentence vectors, float32 unit rows, shape (B, D).
        similarity: Highest cosine to any prototype, shape (B,); 1.0 when there are none.
        truncated: True where a text was longer than the student reads, shape (B,).
    """

    logits: Floats
    vectors: Floats
    similarity: Floats
    truncated: npt.NDArray[np.bool_]


class Encoder(Protocol):
    """Token ids to unit sentence vectors."""

    def encode(self, ids: Ints, mask: Ints) -> Floats:
        """Encodes ids and mask, both shape (B, T), to unit rows of shape (B, D).

        Raises:
            BundleError: If the graph cannot be run.
        """
        ...


class Student:
    """A loaded bundle, ready to answer; build it with `load`."""

    def __init__(
        self,
        bundle: Bundle,
        encoder: Encoder,
        tokenizer: Any,  # noqa: ANN401 - tokenizers ships no types
        profile: RuntimeProfile,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._head = _HeadMath(bundle.head)
        self._golden = bundle.golden
        self._max_characters = bundle.manifest.max_tokens * _CHARACTERS_PER_TOKEN
        # With run-time quantisation a row's numbers depend on its neighbours: one row a run then.
        alone = bundle.graph.quantises_at_run_time
        self._batch_tokens = 0 if alone else profile.batch_tokens
        self.labels = bundle.manifest.labels

    @classmethod
    def load(
        cls, bundle: Bundle, profile: RuntimeProfile = PROFILES[ProfileName.BALANCED]
    ) -> Student:
        """Builds tokenizer and encoder from the bundle's verified bytes.

        Raises:
            BundleError: If the bundle is made for another CPU or cannot be loaded.
        """
        flags = cpu_flags()
        if bundle.manifest.cpu not in flags | {"portable"}:
            raise BundleError(f"the bundle needs the CPU flag {bundle.manifest.cpu}, absent here")
        chosen = bundle.for_cpu(flags)
        return cls(chosen, _encoder(chosen, profile), _tokenizer(chosen), profile)

    def run(self, texts: Sequence[str]) -> StudentOutput:
        """Answers texts in their order; a text's numbers do not depend on the others.

        Raises:
            BundleError: If the encoder fails.
            InvalidValueError: If a text is no `str`.
        """
        tokens, truncated = self._tokenize(texts)
        if len(tokens) == 1:
            vectors = self._encoder.encode(*_pad(tokens))
        else:
            vectors = np.empty((len(texts), self._head.size), np.float32)
            for rows in _buckets([len(ids) for ids in tokens], self._batch_tokens):
                vectors[rows] = self._encoder.encode(*_pad([tokens[row] for row in rows]))
        logits, similarity = self._head.apply(vectors)
        return StudentOutput(logits, vectors, similarity, truncated)

    def check_golden(self) -> None:
        """Runs the golden vectors.

        Raises:
            BundleError: If any logit is further from its golden value than the tolerance allows;
                the message tells which text by position, never by content.
        """
        for position, golden in enumerate(self._golden):
            logits = self.run([golden.text]).logits[0]
            apart = float(np.abs(logits - np.asarray(golden.logits, np.float32)).max())
            if not apart <= golden.tolerance:
                raise BundleError(
                    f"golden vector {position} is {apart:.3g} off on this machine; "
                    f"{golden.tolerance:.3g} is allowed"
                )

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], npt.NDArray[np.bool_]]:
        tokens: list[list[int]] = []
        truncated = np.zeros(len(texts), np.bool_)
        for row, text in enumerate(texts):
            short = readable(text)[: self._max_characters]
            # `encode`, not `encode_batch`: its thread pool does not survive a fork.
            encoding = self._tokenizer.encode(short)
            truncated[row] = bool(encoding.overflowing) or len(short) < len(text)
            tokens.append(encoding.ids)
        return tokens, truncated


class _HeadMath:
    """The head's arithmetic, laid out for speed once."""

    def __init__(self, head: Head) -> None:
        self.classes, self.size = head.weight.shape
        self._bias = head.bias
        self._mix, self._sharpness = np.float32(head.mix), np.float32(head.sharpness)
        order = np.argsort(head.prototype_labels, kind="stable")
        self._present, self._starts = np.unique(head.prototype_labels[order], return_index=True)
        # The usual head has one prototype a class: then a cosine is its class's best already.
        self._one_each = len(order) == len(self._present) == self.classes
        # Classes and prototypes in one matrix: one product for both.
        both = np.concatenate([head.weight, head.prototypes[order]])
        self._matrix = np.ascontiguousarray(both.T)

    def apply(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Unit rows (B, D) to logits (B, C) and similarity (B,)."""
        products = vectors @ self._matrix
        logits = products[:, : self.classes] + self._bias
        if not self._present.size:
            return logits, np.ones(len(vectors), np.float32)
        best = self._best(products[:, self.classes :])
        near = _softmax(self._sharpness * best)
        near *= self._mix
        mixed = _softmax(logits)
        mixed *= 1 - self._mix
        mixed += near
        np.maximum(mixed, _TINY, out=mixed)
        return np.log(mixed, out=mixed), best.max(axis=1)

    def _best(self, cosines: Floats) -> Floats:
        """The highest cosine of each class (B, C); -1 for a class without prototypes."""
        if self._one_each:
            return cosines
        best = np.full((len(cosines), self.classes), -1.0, np.float32)
        best[:, self._present] = np.maximum.reduceat(cosines, self._starts, axis=1)
        return best


class _OnnxEncoder:
    """The graph in ONNX Runtime, loaded from bytes that were hashed."""

    def __init__(self, graph: bytes, profile: RuntimeProfile, size: int) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                graph, session_options(profile), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime raises a dozen classes without a common base
            raise BundleError(f"encoder.onnx cannot be loaded: {_first_line(error)}") from error
        inputs = {port.name for port in self._session.get_inputs()}
        outputs = {port.name: port.shape for port in self._session.get_outputs()}
        if inputs != set(INPUTS) or OUTPUT not in outputs:
            raise BundleError(f"encoder.onnx must take {', '.join(INPUTS)} and give {OUTPUT}")
        self._size = size

    def encode(self, ids: Ints, mask: Ints) -> Floats:
        try:
            vectors: Floats = self._session.run(
                (OUTPUT,), dict(zip(INPUTS, (ids, mask), strict=True))
            )[0]
        except Exception as error:  # the runtime raises a dozen classes without a common base
            raise BundleError(f"encoder.onnx cannot be run: {_first_line(error)}") from error
        if vectors.shape != (len(ids), self._size):
            raise BundleError(
                f"encoder.onnx gave shape {vectors.shape}, not {(len(ids), self._size)}"
            )
        return vectors


class _StaticEncoder:
    """Mean of the tokens' rows, made unit."""

    def __init__(self, table: npt.NDArray[Any]) -> None:
        self._table = table

    def encode(self, ids: Ints, mask: Ints) -> Floats:
        known = np.clip(ids, 0, len(self._table) - 1)
        rows = self._table[known].astype(np.float32) * mask[:, :, None]
        sums = rows.sum(axis=1)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        vectors: Floats = sums / np.maximum(norms, _TINY)
        return vectors


def _encoder(bundle: Bundle, profile: RuntimeProfile) -> Encoder:
    size = bundle.manifest.vector_size
    if bundle.manifest.runtime == "onnx":
        return _OnnxEncoder(bundle.files[ENCODER], profile, size)
    table = decode_embeddings(bundle.files[EMBEDDINGS])
    if table.shape[1] != size:
        raise BundleError(f"the embedding table has {table.shape[1]} columns, not {size}")
    return _StaticEncoder(table)


def session_options(profile: RuntimeProfile) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    """The options of every session of ours, for benchmarks that want to compare like with like."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # a library writes nothing to its host's stderr
    # The arena never gives memory back; a swap would leave the old student's behind.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", str(int(profile.spin_us > 0))
    )
    if profile.spin_us:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(profile.spin_us))
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if not profile.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _tokenizer(bundle: Bundle) -> Any:  # noqa: ANN401 - tokenizers ships no types
    try:
        tokenizer = Tokenizer.from_buffer(bundle.files[TOKENIZER])
        tokenizer.no_padding()
        tokenizer.enable_truncation(bundle.manifest.max_tokens)
    except Exception as error:  # the library raises bare Exception and its Rust panics
        raise BundleError(f"tokenizer.json cannot be loaded: {_first_line(error)}") from error
    return tokenizer


def _buckets(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, each bucket within the token budget when padded."""
    bucket: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if bucket and (len(bucket) + 1) * lengths[row] > batch_tokens:
            yield bucket
            bucket = []
        bucket.append(row)
    if bucket:
        yield bucket


def _pad(tokens: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Ids and mask of shape (B, T); what is padded is masked, so the id there is irrelevant."""
    if len(tokens) == 1 and tokens[0]:
        ids = np.array(tokens, np.int64)
        return ids, np.ones_like(ids)
    width = max(1, *map(len, tokens))
    ids = np.zeros((len(tokens), width), np.int64)
    mask = np.zeros((len(tokens), width), np.int64)
    for row, token_ids in enumerate(tokens):
        ids[row, : len(token_ids)] = token_ids
        mask[row, : len(token_ids)] = 1
    return ids, mask


def _softmax(values: Floats) -> Floats:
    powers: Floats = np.exp(values - values.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
