"""The embedded teacher: frozen sentence vectors with a linear head, or a model's own head."""

from __future__ import annotations

import asyncio
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import understudy.cloud.teacher as door
from simulators.models import tiny_bert_classifier, tiny_encoder, tiny_llama
from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.encoder import SentenceEncoder, knows_bfloat16, settled
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.head import (
    FACTS,
    WEIGHTS,
    LinearHead,
    fit_head,
    fit_linear_teacher,
    head_spec,
    load_head,
    save_head,
)
from understudy.cloud.teacher.spec import Precision, TeacherSpec
from understudy.types.errors import (
    ConfigError,
    DataError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    TeacherError,
)
from understudy.types.records import TeacherLabel

TEXTS = ("i lost my card", "where is my card", "the fee for cash", "why was i charged a fee")
LABELS = ("card", "card", "fee", "fee")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def head(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_linear_teacher(TEXTS, LABELS, encoder, tmp_path_factory.mktemp("head"), seed=0)


async def test_a_fitted_teacher_names_its_classes(head: Path) -> None:
    engine = make_engine(head_spec(head))
    await engine.start()

    answers = await engine.score_labels([ScoreRequest(text=text) for text in TEXTS])
    await engine.health()
    await engine.stop()

    assert isinstance(engine, TeacherEngine)
    assert list(LABELS) == [a.label for a in answers if isinstance(a, TeacherLabel)]
    assert ("card", "fee") == engine.info().labels
    assert {1.0} == {a.label_mass for a in answers if isinstance(a, TeacherLabel)}


async def test_batches_change_no_answer(head: Path) -> None:
    """Padding must not leak into a sentence's vector."""
    engine = make_engine(head_spec(head, max_batch=3))
    await engine.start()
    requests = [ScoreRequest(text=text * (index + 1)) for index, text in enumerate(TEXTS)]

    together = await engine.score_labels(requests)
    alone = [(await engine.score_labels([request]))[0] for request in requests]
    await engine.stop()

    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, TeacherLabel)
        assert isinstance(other, TeacherLabel)
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-5)


async def test_each_input_gets_its_own_answer_or_its_own_error(head: Path) -> None:
    engine = make_engine(head_spec(head))
    (before,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.start()
    good, unknown, late, empty = await engine.score_labels(
        [
            ScoreRequest(text=TEXTS[0]),
            ScoreRequest(text="x", labels=("carg", "fee")),
            ScoreRequest(text="x", deadline_unix_s=1.0),
            ScoreRequest(text=""),
        ]
    )
    (refusal,) = await engine.generate([GenerateRequest(prompt="p")])
    await engine.stop()
    await engine.stop()

    assert isinstance(before, LinkDownError)
    assert isinstance(good, TeacherLabel)
    assert isinstance(unknown, InvalidValueError)
    assert isinstance(late, DeadlineError)
    assert isinstance(empty, TeacherLabel)
    assert isinstance(refusal, InvalidValueError)
    with pytest.raises(TeacherError):
        await engine.health()


async def test_the_event_loop_stays_free_during_a_pass(head: Path) -> None:
    """The gateway's other calls share the loop with an embedded teacher."""
    engine = make_engine(head_spec(head, max_batch=64))
    await engine.start()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    answers = await engine.score_labels([ScoreRequest(text="a card " * 20) for _ in range(256)])
    turning.cancel()
    await engine.stop()

    assert len(answers) == 256
    assert turns > 100


async def test_a_model_with_its_own_head_needs_none_of_ours(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_bert_classifier(tmp_path / "bert", ("lost", "stolen", "fee"))
    engine = make_engine(TeacherSpec(model=str(folder)))
    await engine.start()
    (answer,) = await engine.score_labels([ScoreRequest(text=TEXTS[1])])
    await engine.stop()

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        inputs = AutoTokenizer.from_pretrained(folder)(TEXTS[1], return_tensors="pt")
        logits = model(**inputs).logits[0].numpy()
    assert isinstance(answer, TeacherLabel)
    assert answer.label == ("lost", "stolen", "fee")[int(np.argmax(logits))]


async def test_a_text_longer_than_the_model_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """The folder's tokenizer says nothing of a limit; the model has places for 128 tokens."""
    folder = tiny_bert_classifier(tmp_path / "bert", ("lost", "stolen", "fee"))
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    del facts["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    engine = make_engine(TeacherSpec(model=str(folder)))
    await engine.start()
    requests = [ScoreRequest(text=TEXTS[1] * times) for times in (100, 200)]
    first, second = await engine.score_labels(requests)
    await engine.stop()

    assert isinstance(first, TeacherLabel)
    assert isinstance(second, TeacherLabel)
    assert first.labels == second.labels
    assert first.log_probs == pytest.approx(second.log_probs, abs=1e-5)


async def test_classes_can_be_renamed_but_not_added(tmp_path: Path) -> None:
    folder = tiny_bert_classifier(tmp_path / "bert", ("LABEL_0", "LABEL_1"))
    spec = TeacherSpec(model=str(folder), labels=("no", "yes"))
    engine = make_engine(spec)
    await engine.start()
    await engine.stop()

    assert ("no", "yes") == engine.info().labels
    with pytest.raises(ConfigError, match=r"teacher\.labels: the model has 2 classes, not 3"):
        await make_engine(replace(spec, labels=("a", "b", "c"))).start()


async def test_a_model_without_any_head_is_refused_in_one_sentence(
    encoder: Path, head: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="fit one with fit_linear_teacher"):
        await make_engine(TeacherSpec(model=str(encoder))).start()
    wide = tiny_encoder(tmp_path / "wide", vector_size=64)
    with pytest.raises(ConfigError, match="made for vectors of 32 numbers, the model has 64"):
        await make_engine(TeacherSpec(model=str(wide), head=str(head))).start()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no encoder"):
        await make_engine(TeacherSpec(model=str(tmp_path / "empty"), head=str(head))).start()
    llama = tiny_llama(tmp_path / "llama")
    with pytest.raises(ConfigError, match=r"teacher\.head"):
        await make_engine(TeacherSpec(model=str(llama))).start()


def test_sentence_vectors_have_length_one_and_keep_their_order(encoder: Path) -> None:
    """The night cuts students from these; a permutation would teach them nonsense."""
    loaded = SentenceEncoder.load(encoder)
    texts = ["a long text about my card " * 3, "short", "a fee of some kind"]

    vectors = loaded.encode(texts, batch=2)

    assert (3, loaded.vector_size) == vectors.shape
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    for text, vector in zip(texts, vectors, strict=True):
        assert np.allclose(loaded.encode([text])[0], vector, atol=1e-5)
    assert (0, loaded.vector_size) == loaded.encode([]).shape


def test_half_the_numbers_give_nearly_the_same_vectors(encoder: Path) -> None:
    """Twice as fast where the processor knows bfloat16; what the teacher says must stay."""
    whole = SentenceEncoder.load(encoder).encode(TEXTS)
    half = SentenceEncoder.load(encoder, precision=Precision.BFLOAT16).encode(TEXTS)

    assert half.dtype == np.float32
    assert np.all((whole * half).sum(axis=1) > 0.99)
    assert not np.array_equal(whole, half)


def test_the_precision_follows_the_processor_where_it_is_left_to_it() -> None:
    """bfloat16 that is emulated is slower than float32; what was asked for is what is used."""
    auto, chosen = Precision.AUTO, Precision.FLOAT32

    assert Precision.BFLOAT16 is settled(auto, knows_bfloat16=True)
    assert Precision.FLOAT32 is settled(auto, knows_bfloat16=False)
    assert chosen is settled(chosen, knows_bfloat16=True)
    assert knows_bfloat16({"avx512_bf16": True, "amx_bf16": False})
    assert not knows_bfloat16({"avx512_f": True, "avx512_bf16": False})


def test_an_encoder_left_to_this_machine_answers(encoder: Path) -> None:
    whole = SentenceEncoder.load(encoder).encode(TEXTS)
    auto = SentenceEncoder.load(encoder, precision=Precision.AUTO).encode(TEXTS)

    assert np.all((whole * auto).sum(axis=1) > 0.99)


def test_a_head_is_read_back_as_it_was_written(head: Path, tmp_path: Path) -> None:
    first = load_head(head)
    second = load_head(save_head(first, tmp_path / "copy"))

    assert first.labels == second.labels
    assert first.digest == second.digest
    assert np.array_equal(first.weight, second.weight)
    assert (tmp_path / "copy" / WEIGHTS).read_bytes() == (head / WEIGHTS).read_bytes()


def test_fitting_twice_gives_the_same_head(encoder: Path, head: Path, tmp_path: Path) -> None:
    again = fit_linear_teacher(TEXTS, LABELS, encoder, tmp_path, seed=0)

    assert load_head(head).digest == load_head(again).digest


def test_files_of_two_heads_do_not_mix(head: Path, tmp_path: Path) -> None:
    first = load_head(head)
    other = LinearHead(first.labels, first.weight * 2, first.bias, first.base)
    save_head(first, tmp_path / "one")
    save_head(other, tmp_path / "two")
    (tmp_path / "one" / FACTS).replace(tmp_path / "two" / FACTS)

    with pytest.raises(ConfigError, match="does not belong to"):
        load_head(tmp_path / "two")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / WEIGHTS).write_bytes(b"\x00" * 20),
        lambda folder: (folder / FACTS).write_text("{"),
        lambda folder: (folder / FACTS).write_text(json.dumps({"labels": ["a"]})),
    ],
    ids=["weights missing", "weights damaged", "facts damaged", "facts incomplete"],
)
def test_a_damaged_head_is_refused_by_name(head: Path, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - four lambdas
    folder = save_head(load_head(head), tmp_path / "head")
    damage(folder)

    with pytest.raises(ConfigError, match=r"teacher\.head: .* holds no readable head"):
        load_head(folder)


def test_rows_that_teach_nothing_are_refused() -> None:
    vectors = np.eye(2, dtype=np.float32)

    with pytest.raises(DataError, match="at least two classes"):
        fit_head(vectors, ["a", "a"], base="x")
    with pytest.raises(DataError, match="2 texts cannot have 1 labels"):
        fit_head(vectors, ["a"], base="x")


def test_the_door_leads_to_what_it_names() -> None:
    assert door.TeacherSpec is TeacherSpec
    assert door.fit_linear_teacher is fit_linear_teacher
    with pytest.raises(AttributeError):
        door.no_such_thing  # noqa: B018 - the access is the test


@pytest.mark.slow
async def test_frozen_vectors_with_a_linear_head_make_a_good_teacher(
    shared_data: Path, tmp_path: Path
) -> None:
    """Twelve rows an intent are enough here; all of BANKING77 gives 93 % (docs/benchmarks)."""
    train, test = _banking(shared_data, "train", 12), _banking(shared_data, "test", 5)
    folder = fit_linear_teacher(
        [row["text"] for row in train],
        [row["category"] for row in train],
        door.PACKAGED_MINILM,
        tmp_path,
    )
    engine = make_engine(head_spec(folder))
    await engine.start()
    answers = await engine.score_labels([ScoreRequest(text=row["text"]) for row in test])
    await engine.stop()

    right = sum(
        isinstance(answer, TeacherLabel) and answer.label == row["category"]
        for answer, row in zip(answers, test, strict=True)
    )
    assert right / len(test) > 0.85


def _banking(data: Path, name: str, rows: int) -> list[dict[str, str]]:
    """The first rows of each of twenty intents."""
    with (data / "banking77" / f"{name}.csv").open() as file:
        table = list(csv.DictReader(file))
    intents = sorted({row["category"] for row in table})[:20]
    return [row for i in intents for row in [r for r in table if r["category"] == i][:rows]]
