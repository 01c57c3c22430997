"""The student at work: texts in, logits, sentence vectors and similarities out.

ONNX Runtime runs the encoder, numpy the head; a `static` student is an embedding bag without a
graph. `run` is thread-safe without a lock: the runtime releases the interpreter while it computes,
and nothing here changes after `load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from understudy.edge.bundle import Bundle
from understudy.edge.config import ProfileName
from understudy.edge.cpu import cpu_flags, runs_on
from understudy.edge.forks import GATE
from understudy.edge.head_math import HeadMath
from understudy.edge.ort import onnxruntime
from understudy.edge.parts import Floats, Ints, decode_embeddings
from understudy.edge.text import readable
from understudy.types.bundle import EMBEDDINGS, ENCODER, TOKENIZER
from understudy.types.errors import BundleError

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sent_vec"
_OUTPUTS = (OUTPUT,)

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
        similarity: How near the text is to what was taught, in [-1, 1], shape (B,): by the head's
            background, else the highest cosine to any prototype, else 1.0.
        truncated: True where a text was longer than the student reads, shape (B,).
    """

    logits: Floats
    vectors: Floats
    similarity: Floats
    truncated: npt.NDArray[np.bool_]


class Reading(NamedTuple):
    """What a student says about one text.

    Attributes:
        logits: As in `StudentOutput`, shape (C,).
        similarity: As in `StudentOutput`.
        truncated: True if the text was longer than the student reads.
    """

    logits: Floats
    similarity: float
    truncated: bool


class Encoder(Protocol):
    """Token ids to unit sentence vectors."""

    def encode(self, ids: Ints, mask: Ints) -> Floats:
        """Encodes ids and mask, both shape (B, T), to unit rows of shape (B, D).

        Raises:
            BundleError: If the graph cannot be run.
        """
        ...


class Student:
    """A loaded bundle, ready to answer; build it with `load`.

    Attributes:
        labels: Class names, by index.
        bundle: What is loaded, the variant for this CPU where there is one; without its bytes.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoder: Encoder,
        tokenizer: Any,  # noqa: ANN401 - tokenizers ships no types
        profile: RuntimeProfile,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._head = HeadMath(bundle.head)
        self._golden = bundle.golden
        self._max_tokens = bundle.manifest.max_tokens
        self._max_characters = self._max_tokens * _CHARACTERS_PER_TOKEN
        self._ones = np.ones((1, self._max_tokens), np.int64)
        # With run-time quantisation a row's numbers depend on its neighbours: one row a run then.
        alone = bundle.graph.quantises_at_run_time
        self._batch_tokens = 0 if alone else profile.batch_tokens
        self.labels = bundle.manifest.labels
        self.bundle = bundle.without_files()

    @classmethod
    def load(
        cls, bundle: Bundle, profile: RuntimeProfile = PROFILES[ProfileName.BALANCED]
    ) -> Student:
        """Builds tokenizer and encoder of the variant for this CPU, from verified bytes.

        Raises:
            BundleError: If the bundle is made for another CPU or cannot be loaded.
        """
        return cls._of(bundle.for_cpu(cpu_flags()), profile)

    @classmethod
    def proved(
        cls, bundle: Bundle, profile: RuntimeProfile = PROFILES[ProfileName.BALANCED]
    ) -> Student:
        """Loads as `load` does, and runs the golden vectors.

        A variant that fails here, where its flags promised another CPU than there is, gives way to
        the graph that runs everywhere.

        Raises:
            BundleError: If that one fails, too.
        """
        chosen = bundle.for_cpu(cpu_flags())
        try:
            student = cls._of(chosen, profile)
            student.check_golden()
        except BundleError:
            if chosen is bundle:
                raise
            student = cls._of(bundle, profile)
            student.check_golden()
        return student

    @classmethod
    def _of(cls, bundle: Bundle, profile: RuntimeProfile) -> Student:
        if not runs_on(bundle.manifest.cpu, cpu_flags()):
            raise BundleError(f"the bundle is for CPUs with {bundle.manifest.cpu}, absent here")
        return cls(bundle, _encoder(bundle, profile), _tokenizer(bundle), profile)

    def run(self, texts: Sequence[str]) -> StudentOutput:
        """Answers texts in their order; a text's numbers do not depend on the others.

        Raises:
            BundleError: If the encoder fails.
            InvalidValueError: If a text is no `str`.
        """
        with GATE:
            tokens, truncated = self._tokenize(texts)
        vectors = np.empty((len(texts), self._head.size), np.float32)
        for rows in _buckets([len(ids) for ids in tokens], self._batch_tokens):
            padded = _pad([tokens[row] for row in rows])
            with GATE:  # bucket by bucket, so that a fork need not wait for a long batch
                vectors[rows] = self._encoder.encode(*padded)
        logits, similarity = self._head.apply(vectors)
        return StudentOutput(logits, vectors, similarity, truncated)

    def read(self, text: str) -> Reading:
        """Answers one text that is `readable` already; the hot path.

        Raises:
            BundleError: If the encoder fails.
        """
        with GATE:
            ids, truncated = self._token_ids(text)
            vectors = self._encoder.encode(*self._alone(ids))
        logits, similarity = self._head.apply_one(vectors[0])
        return Reading(logits, similarity, truncated)

    def read_many(self, texts: Sequence[str]) -> list[Reading]:
        """Answers texts in their order, as `read` answers one.

        Raises:
            BundleError: If the encoder fails.
        """
        output = self.run(texts)
        near, cut = output.similarity.tolist(), output.truncated.tolist()
        return [Reading(*row) for row in zip(output.logits, near, cut, strict=True)]

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
            clean = readable(text)
            ids, cut = self._token_ids(clean)
            truncated[row] = cut or len(clean) < len(text)
            tokens.append(ids)
        return tokens, truncated

    def _alone(self, ids: list[int]) -> tuple[Ints, Ints]:
        """As `_pad` for one text, with a mask that is there already."""
        if not ids:
            return _pad([ids])
        return np.array((ids,), np.int64), self._ones[:, : len(ids)]

    def _token_ids(self, text: str) -> tuple[list[int], bool]:
        """A text's tokens, and whether it has more than the student reads."""
        short = text[: self._max_characters]
        # `encode`, not `encode_batch`: its thread pool does not survive a fork.
        encoding = self._tokenizer.encode(short)
        ids: list[int] = encoding.ids
        # Overflow is costly to ask for, and there is none below the limit.
        full = len(ids) >= self._max_tokens and bool(encoding.overflowing)
        return ids, full or len(short) < len(text)


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
            feed = {"input_ids": ids, "attention_mask": mask}
            vectors: Floats = self._session.run(_OUTPUTS, feed)[0]
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


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
