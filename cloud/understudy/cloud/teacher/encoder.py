"""Sentence vectors of a frozen encoder: pooled, scaled to length one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher.spec import Precision
from understudy.types.errors import ConfigError

DEFAULT_MAX_TOKENS = 256
_CPU_BATCH = 16
_ACCELERATOR_BATCH = 256


class SentenceEncoder:
    """A transformer encoder on this machine's accelerator, if it has one, else its processors.

    Not safe for concurrent calls.
    """

    def __init__(self, model: Any, tokenizer: Any, *, pooling: str, max_tokens: int) -> None:  # noqa: ANN401 - untyped library
        self._model = model
        # On processors a pass of 16 texts of like length is as fast a text as any larger one, and
        # wastes less padding; an accelerator wants more.
        self._batch = _CPU_BATCH if model.device.type == "cpu" else _ACCELERATOR_BATCH
        self._tokenizer = tokenizer
        self._pooling = pooling
        self.max_tokens = max_tokens

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        max_tokens: int = 0,
        threads: int = 0,
        precision: Precision = Precision.FLOAT32,
    ) -> Self:
        """Reads an encoder.

        Args:
            folder: Configuration, weights and tokenizer; pooling from the files beside them.
            max_tokens: Longest input read; 0 for what the model was made for.
            threads: CPU threads for the whole process; 0 leaves them as they are.
            precision: Numbers it computes with; its vectors are float32 all the same.

        Raises:
            ConfigError: If the folder holds no encoder.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # a service's log is no terminal
        if threads:
            torch.set_num_threads(threads)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = (
                AutoModel.from_pretrained(folder, dtype=number_type(precision)).to(device()).eval()
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"teacher.model: {folder} holds no encoder: {error}") from error
        longest = max_tokens or made_for(folder)
        return cls(model, tokenizer, pooling=pooling_of(folder), max_tokens=longest)

    @property
    def vector_size(self) -> int:
        """Length of a sentence vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str], batch: int = 0) -> NDArray[np.float32]:
        """Unit sentence vectors, float32, shape (len(texts), vector_size), same order.

        Args:
            texts: Inputs.
            batch: Texts in one forward pass; 0 for what suits the device.
        """
        batch = batch or self._batch
        vectors = np.empty((len(texts), self.vector_size), dtype=np.float32)
        # Neighbours of one length waste no padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            vectors[rows] = self._forward([texts[i] for i in rows])
        return vectors

    def _forward(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.float()  # (B, T, D)
            if self._pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
            unit = torch.nn.functional.normalize(pooled, dim=-1)
        result: NDArray[np.float32] = unit.cpu().numpy()
        return result


def number_type(precision: Precision) -> Any:  # noqa: ANN401 - untyped library
    """Torch's type for a precision; settles `auto` for this machine."""
    import torch

    if device() == "cuda":
        knows = torch.cuda.is_bf16_supported()
    else:
        knows = knows_bfloat16(torch.cpu.get_capabilities())
    return getattr(torch, settled(precision, knows_bfloat16=knows))


def settled(precision: Precision, *, knows_bfloat16: bool) -> Precision:
    """The precision to compute with where bfloat16 is known in hardware, or is not."""
    if precision is not Precision.AUTO:
        return precision
    return Precision.BFLOAT16 if knows_bfloat16 else Precision.FLOAT32


def knows_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """True if a processor has instructions for products in bfloat16; emulated, it is slower."""
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def device() -> str:
    """Where models run: the accelerator, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def made_for(folder: Path) -> int:
    """The longest input, in tokens, that the encoder was trained on."""
    facts = _json(folder / "sentence_bert_config.json")
    return int(facts.get("max_seq_length", DEFAULT_MAX_TOKENS))


def pooling_of(folder: Path) -> str:
    """How token vectors become one: `mean` or `cls`."""
    facts = _json(folder / "1_Pooling" / "config.json")
    return "cls" if facts.get("pooling_mode_cls_token") else "mean"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts
