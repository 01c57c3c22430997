"""A small world for nights: a language of intents, a tiny random base, and a log of its traffic.

Everything is seeded and takes milliseconds; only exporting a graph takes seconds, so nights that
share an encoder share a workspace.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.run import run_night
from understudy.distill_loop.workspace import Workspace
from understudy.types.contract import Contract
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel

_WORLD = {
    "card_lost": ("lost stolen missing vanished", "card wallet debit"),
    "pin_reset": ("reset change forgot renew", "pin code password"),
    "refund": ("refund return repay reimburse", "purchase order item"),
    "transfer": ("transfer send wire move", "money funds euros"),
    "balance": ("balance remaining left total", "account savings funds"),
    "exchange": ("exchange convert swap trade", "currency dollars yen"),
    "statement": ("statement summary report overview", "month year quarter"),
    "fee": ("fee charge cost price", "extra hidden monthly"),
}
INTENTS = tuple(_WORLD)
_FILL = (
    "please",
    "hello",
    "i need help",
    "can you",
    "my",
    "the",
    "today",
    "now",
    "again",
    "urgent",
)
NOW = 1_800_000_000.0


def utterances(count: int, seed: int, intents: Sequence[str] = INTENTS) -> list[tuple[str, str]]:
    """(text, intent) pairs; intents take turns, texts are mostly different."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    rows: list[tuple[str, str]] = []
    for intent in itertools.islice(itertools.cycle(intents), count):
        verbs, nouns = (part.split() for part in _WORLD[intent])
        words = [*chance.sample(_FILL, 3), chance.choice(verbs), chance.choice(nouns)]
        chance.shuffle(words)
        rows.append((" ".join(words), intent))
    return rows


def teacher_label(intent: str, sure: float = 0.95) -> TeacherLabel:
    """A teacher that is right, and says so."""
    other = "fee" if intent != "fee" else "refund"
    return TeacherLabel("oracle", "p1", (intent, other), (math.log(sure), math.log(1 - sure)))


def seed_rows(per_intent: int = 4, intents: Sequence[str] = INTENTS) -> tuple[Example, ...]:
    """Rows labelled by a person."""
    rows = utterances(per_intent * len(intents), 1, intents)
    return tuple(Example(id=f"seed-{i}", text=t, label=y) for i, (t, y) in enumerate(rows))


def traffic(
    count: int, seed: int, *, intents: Sequence[str] = INTENTS, coin: float = 0.4, day: int = 1
) -> list[LoggedRow]:
    """Logged rows of one day: everything escalated, coins at the given rate, twenty nodes."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    return [
        logged(
            f"{day}-{seed}-{i}",
            text,
            intent,
            coin=chance.random() < coin,
            day=day,
            node=chance.randrange(20),
        )
        for i, (text, intent) in enumerate(utterances(count, seed, intents))
    ]


def logged(
    event: str, text: str, intent: str | None, *, coin: bool = False, day: int = 1, node: int = 0
) -> LoggedRow:
    """One row of the log."""
    record = EscalationRecord(
        event_id=event,
        task="classify",
        bundle="b0",
        text=text,
        top=(),
        confidence=0.5,
        threshold=0.9,
        kind=RecordKind.ESCALATION,
        coin=coin,
        audit_rate=0.4,
        propensity=1.0,
        created_unix_s=NOW + day * 86_400.0,
        node=f"node-{node}",
    )
    label = teacher_label(intent) if intent is not None else None
    return LoggedRow(abs(hash(event)) % 10**9, record, label, NOW + day * 86_400.0)


def tiny_recipe(**changes: object) -> Recipe:
    """A recipe on the tiny base whose nights take seconds; the encoder does not learn."""
    plain = Recipe()
    recipe = replace(
        plain,
        name="tiny",
        contract=Contract(max_quality_loss=0.05, confidence=0.9),
        student=replace(
            plain.student, base=str(tiny_base()), keep_layers=(0, 1), vocabulary=400, max_tokens=24
        ),
        distil=replace(plain.distil, epochs=0, threads=1, batch=16),
        data=replace(plain.data, max_drop=0.0, window_days=1000.0),
        gate=replace(plain.gate, require_gain=False, max_negative_flips=0.05, latency_ratio=100.0),
    )
    return replace(recipe, **changes)  # type: ignore[arg-type] # tests name fields of the recipe


@functools.cache
def day_zero() -> tuple[Path, Path]:
    """A workspace with a first student in it, and that student's bundle; copy it, never use it."""
    folder = Path(tempfile.mkdtemp(prefix="night-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sources = Sources(seed=seed_rows(), now_unix_s=NOW)
    first = run_night(tiny_recipe(), Workspace(folder), sources, name="day-0")
    return folder, first.directory


def copied_world(folder: Path) -> tuple[Workspace, Path]:
    """A workspace of one's own after day 0, with the champion's folder inside it."""
    workspace, bundle = day_zero()
    shutil.copytree(workspace, folder / "nights")
    return Workspace(folder / "nights"), folder / "nights" / "bundles" / bundle.name


@functools.cache
def tiny_base() -> Path:
    """A folder like a BERT's with random weights: 2 layers of width 32, and its own vocabulary."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write_tokenizer(folder)
    _write_weights(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789<>~"
    words = sorted({w for a, b in _WORLD.values() for w in f"{a} {b}".split()})
    words += [w for phrase in _FILL for w in phrase.split()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters)]
    pieces = list(dict.fromkeys([*pieces, *words, *(f"word{i}" for i in range(60))]))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _write_weights(folder: Path, layers: int = 2, hidden: int = 32, wide: int = 64) -> None:
    from safetensors.numpy import save_file

    rows = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(rows), hidden),
        "embeddings.position_embeddings.weight": (128, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm": (hidden,),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            shapes[f"{at}attention.self.{name}"] = (hidden, hidden)
        shapes[f"{at}attention.output.dense"] = (hidden, hidden)
        shapes[f"{at}attention.output.LayerNorm"] = (hidden,)
        shapes[f"{at}intermediate.dense"] = (wide, hidden)
        shapes[f"{at}output.dense"] = (hidden, wide)
        shapes[f"{at}output.LayerNorm"] = (hidden,)
    save_file(_random_tensors(shapes), folder / "model.safetensors")
    config = {
        "model_type": "bert",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": 4,
        "intermediate_size": wide,
        "vocab_size": len(rows),
        "max_position_embeddings": 128,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def _random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        if name.endswith("LayerNorm"):
            tensors[f"{name}.weight"] = np.ones(shape, np.float32)
            tensors[f"{name}.bias"] = np.zeros(shape, np.float32)
            continue
        scale = 0.5 if "word" in name else 0.05
        value = generator.normal(0, scale, shape).astype(np.float32)
        if name.endswith(".weight"):
            tensors[name] = value
        else:
            tensors[f"{name}.weight"] = value
            tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return tensors
