"""The embedded default: a classifier in this process, by transformers and torch.

Either a model with a classification head of its own, or an encoder with one of our linear heads.
The forward pass runs on one worker thread, so the event loop stays free.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.distribution import expired, prompt_hash, restricted_label
from understudy.cloud.teacher.encoder import SentenceEncoder, device, number_type
from understudy.cloud.teacher.head import LinearHead, load_head
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.cloud.teacher.weights import model_labels, resolve_model
from understudy.types.errors import (
    ConfigError,
    InvalidValueError,
    LinkDownError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel


class Scorer(Protocol):
    """Texts to logits, in this thread."""

    labels: tuple[str, ...]
    digest: str

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), len(labels))."""
        ...


class TransformersEngine:
    """A `TeacherEngine` over a classifier; `generate` belongs to the other engines."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self._scorer: Scorer | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._info = _info(spec, spec.labels, "")

    def info(self) -> TeacherInfo:
        """Labels are known once started."""
        return self._info

    async def start(self) -> None:
        """Loads the model.

        Raises:
            ConfigError: If model or head cannot be read, or do not fit each other.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        loop = asyncio.get_running_loop()
        scorer = await loop.run_in_executor(self._thread, load_scorer, self._spec)
        self._info = _info(self._spec, scorer.labels, f"+{scorer.digest}")
        self._scorer = scorer

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """One forward pass per `max_batch` inputs; expired ones are left out."""
        if self._scorer is None or self._thread is None:
            return [LinkDownError("the teacher has not come up yet")] * len(requests)
        loop = asyncio.get_running_loop()
        results: list[TeacherLabel | UnderstudyError] = []
        for start in range(0, len(requests), self._spec.max_batch):
            chunk = requests[start : start + self._spec.max_batch]
            results += await loop.run_in_executor(self._thread, self._score, chunk)
        return results

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """A classifier continues no prompt."""
        return [InvalidValueError("this teacher is a classifier; it cannot generate")] * len(
            requests
        )

    async def health(self) -> None:
        """Returns if the model is loaded.

        Raises:
            TeacherError: If it is not.
        """
        if self._scorer is None:
            raise TeacherError("the teacher has not been started")

    async def stop(self, drain_s: float = 0.0) -> None:
        """The pass under way always ends, whatever `drain_s` says: torch cannot be interrupted."""
        del drain_s
        thread, self._thread, self._scorer = self._thread, None, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown, wait=True, cancel_futures=True)

    def _score(self, requests: Sequence[ScoreRequest]) -> list[TeacherLabel | UnderstudyError]:
        scorer = self._scorer
        if scorer is None:
            return [LinkDownError("the teacher was stopped")] * len(requests)
        late = [expired(request) for request in requests]
        texts = [r.text for r, error in zip(requests, late, strict=True) if error is None]
        rows = iter(scorer.logits(texts) if texts else ())
        return [
            error or self._label(request, next(rows))
            for request, error in zip(requests, late, strict=True)
        ]

    def _label(
        self, request: ScoreRequest, logits: NDArray[np.float32]
    ) -> TeacherLabel | UnderstudyError:
        info = self._info
        try:
            return restricted_label(
                info.labels,
                logits,
                request.labels,
                teacher=info.id,
                prompt_hash=prompt_hash(info.id, request.labels or info.labels),
            )
        except UnderstudyError as error:
            return error


class HeadScorer:
    """An encoder with one of our linear heads."""

    def __init__(self, encoder: SentenceEncoder, head: LinearHead) -> None:
        head.check_fit(encoder.vector_size)
        self._encoder = encoder
        self._head = head
        self.labels = head.labels
        self.digest = head.digest

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), len(labels))."""
        return self._head.logits(self._encoder.encode(texts))


class ModelScorer:
    """A model with a classification head of its own."""

    def __init__(self, folder: Path, spec: TeacherSpec, labels: tuple[str, ...]) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=number_type(spec.precision)
        )
        self._model = model.to(device()).eval()
        positions = getattr(model.config, "max_position_embeddings", sys.maxsize)
        # A tokenizer that was saved without its limit has none, and a text beyond it is an error.
        made_for = min(self._tokenizer.model_max_length, positions)
        self._max_tokens = spec.max_tokens or made_for
        self.labels = labels
        self.digest = prompt_hash(str(folder), self.labels)[:8]

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), len(labels))."""
        import torch

        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            result: NDArray[np.float32] = self._model(**inputs).logits.float().cpu().numpy()
        return result


def _info(spec: TeacherSpec, labels: tuple[str, ...], suffix: str) -> TeacherInfo:
    name = spec.model.removeprefix("package:").rstrip("/").rsplit("/", 1)[-1]
    return TeacherInfo(id=f"transformers:{name}{suffix}", engine="transformers", labels=labels)


def load_scorer(spec: TeacherSpec) -> Scorer:
    """The scorer a spec asks for.

    Raises:
        ConfigError: If the files do not make a classifier.
    """
    folder = resolve_model(spec)
    if spec.head:
        head = load_head(spec.head)
        encoder = SentenceEncoder.load(
            folder, max_tokens=spec.max_tokens, threads=spec.threads, precision=spec.precision
        )
        return HeadScorer(encoder, head)
    labels = model_labels(folder, spec.labels)
    try:
        return ModelScorer(folder, spec, labels)
    except (OSError, ValueError) as error:
        raise ConfigError(f"teacher.model: {folder} cannot be loaded: {error}") from error
