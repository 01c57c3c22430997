"""A linear head over frozen sentence vectors: fitted in seconds, shipped as two small files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher.encoder import SentenceEncoder
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.cloud.teacher.weights import resolve_weights
from understudy.types.errors import ConfigError, DataError, InvalidValueError

WEIGHTS = "head.safetensors"
FACTS = "head.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class LinearHead:
    """Logits are `weight @ v + bias` for a unit sentence vector `v`.

    Attributes:
        labels: Class names; position is the row of `weight`.
        weight: float32, shape (C, D).
        bias: float32, shape (C,).
        base: The encoder it was fitted on, in the words of `TeacherSpec.model`.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    base: str

    def __post_init__(self) -> None:
        rows = len(self.labels)
        if self.weight.ndim != 2 or self.weight.shape[0] != rows or self.bias.shape != (rows,):
            raise InvalidValueError("a linear head needs one row and one bias per label")

    @property
    def digest(self) -> str:
        """8 hex digits over labels and numbers."""
        state = hashlib.sha256("\0".join(self.labels).encode())
        state.update(np.ascontiguousarray(self.weight).tobytes())
        state.update(np.ascontiguousarray(self.bias).tobytes())
        return state.hexdigest()[:8]

    def check_fit(self, vector_size: int) -> None:
        """Passes if it was made for vectors of that length.

        Raises:
            ConfigError: If not; head and model do not belong together.
        """
        if self.weight.shape[1] != vector_size:
            raise ConfigError(
                f"teacher.head: made for vectors of {self.weight.shape[1]} numbers, "
                f"the model has {vector_size}"
            )

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape (B, C) for unit vectors of shape (B, D)."""
        result: NDArray[np.float32] = vectors @ self.weight.T + self.bias
        return result


def fit_linear_teacher(
    texts: Sequence[str],
    labels: Sequence[str],
    base_dir: str | Path,
    out_dir: str | Path,
    seed: int = 0,
) -> Path:
    """Fits a linear head on an encoder's frozen sentence vectors and saves it.

    Args:
        texts: Inputs.
        labels: Class of each input.
        base_dir: The encoder: a folder, or any words that `TeacherSpec.model` takes.
        out_dir: Folder for the head; made if absent, its head files are replaced.
        seed: Of the optimiser.

    Returns:
        `out_dir`, to be named as `TeacherSpec.head`.

    Raises:
        DataError: If rows are missing or name fewer than two classes.
        ConfigError: If there is no such encoder.
    """
    encoder = SentenceEncoder.load(resolve_weights(str(base_dir)))
    head = fit_head(encoder.encode(texts), labels, base=str(base_dir), seed=seed)
    return save_head(head, Path(out_dir))


def fit_head(
    vectors: NDArray[np.float32], labels: Sequence[str], *, base: str, seed: int = 0
) -> LinearHead:
    """Multinomial logistic regression on unit vectors of shape (N, D).

    Raises:
        DataError: If rows are missing or name fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression

    if len(vectors) != len(labels):
        raise DataError(f"{len(vectors)} texts cannot have {len(labels)} labels")
    names = sorted(set(labels))
    if len(names) < 2:
        raise DataError("a teacher needs rows of at least two classes")
    # Unit vectors are short: weak shrinkage (C=30) was best on held-out rows of BANKING77.
    fitted = LogisticRegression(C=30.0, max_iter=300, random_state=seed).fit(vectors, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(names) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearHead(
        tuple(names), np.asarray(weight, np.float32), np.asarray(bias, np.float32), base
    )


def save_head(head: LinearHead, folder: Path) -> Path:
    """Writes weights and facts, each all or nothing; returns `folder`."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weight": np.ascontiguousarray(head.weight), "bias": np.ascontiguousarray(head.bias)}
    facts = {"format": FORMAT, "base": head.base, "labels": head.labels, "digest": head.digest}
    _replace(folder / WEIGHTS, save(tensors))
    _replace(folder / FACTS, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    return folder


def load_head(folder: str | Path) -> LinearHead:
    """Reads what `save_head` wrote.

    Raises:
        ConfigError: If the folder holds no whole head.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(folder)
    try:
        facts: dict[str, Any] = json.loads((path / FACTS).read_bytes())
        tensors = load((path / WEIGHTS).read_bytes())
        head = LinearHead(
            tuple(facts["labels"]), tensors["weight"], tensors["bias"], str(facts["base"])
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"teacher.head: {path} holds no readable head: {error}") from error
    if head.digest != facts.get("digest"):
        raise ConfigError(f"teacher.head: {path / WEIGHTS} does not belong to {path / FACTS}")
    return head


def head_spec(folder: str | Path, **options: Any) -> TeacherSpec:  # noqa: ANN401 - fields of the spec
    """The spec of the teacher whose head lies in `folder`."""
    head = load_head(folder)
    return TeacherSpec(model=head.base, head=str(folder), **options)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
