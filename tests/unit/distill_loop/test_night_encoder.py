"""The encoder from base to graph: what is copied, what is learned, what is exported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from simulators.night_world import day_zero, seed_rows, tiny_base, tiny_recipe, utterances
from understudy.distill_loop.base import MINILM_SHA256, find_base
from understudy.distill_loop.checkpoint import load_model
from understudy.distill_loop.compress import parity, quantise_dynamic
from understudy.distill_loop.distil import Lesson, Trained, distil, plan_batches, schedule
from understudy.distill_loop.export import INPUTS, OUTPUT, check_parity, open_graph, run_graph
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.objective import Batch, Output, capped, terms
from understudy.distill_loop.recipe import DistilRecipe, ObjectiveRecipe, Recipe
from understudy.distill_loop.student import (
    StudentModel,
    cut_student,
    encode,
    tokenise,
    whole_base,
)
from understudy.distill_loop.vocabulary import trim_vocabulary
from understudy.edge.graph import inspect_graph
from understudy.types.errors import BundleError, ConfigError

TEXTS = [text for text, _ in utterances(48, 11)]


@pytest.fixture(scope="module")
def base_model() -> StudentModel:
    return whole_base(find_base(str(tiny_base())))


def _recipe(**distil_changes: object) -> Recipe:
    recipe = tiny_recipe()
    return replace(recipe, distil=replace(recipe.distil, **distil_changes))  # type: ignore[arg-type] # tests name fields


def _lesson(base_model: StudentModel, classes: int = 4) -> Lesson:
    vectors = encode(base_model, TEXTS)
    labels = np.arange(len(TEXTS)) % classes
    soft = np.full((len(TEXTS), classes), 0.1 / (classes - 1), np.float32)
    soft[np.arange(len(TEXTS)), labels] = 0.9
    weights = np.ones(len(TEXTS), np.float32)
    return Lesson(texts=TEXTS, vectors=vectors, soft=soft, labels=labels, weights=weights)


def _train(
    base_model: StudentModel, recipe: Recipe, layers: tuple[int, ...] = (1,)
) -> tuple[StudentModel, Trained]:
    student = replace(recipe.student, keep_layers=layers)
    start = cut_student(student, find_base(recipe.student.base), TEXTS)
    lesson = _lesson(base_model)
    head = fit_head(lesson.vectors, lesson.labels, 4)
    return start, distil(start, lesson, head, recipe, base=base_model)


def test_our_encoder_is_the_library_s_bert(base_model: StudentModel) -> None:
    # A third of the loop rests on this copy: one wrong transpose and nothing would be cut right.
    from transformers import AutoModel

    reference = AutoModel.from_pretrained(str(tiny_base())).eval()
    ids, mask = tokenise(base_model.tokenizer, TEXTS[:7]).batch(range(7))
    with torch.inference_mode():
        states = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    mean = (states * weights).sum(1) / weights.sum(1)
    expected = (mean / mean.norm(dim=-1, keepdim=True)).numpy()

    assert encode(base_model, TEXTS[:7]) == pytest.approx(expected, abs=1e-5)


def test_kept_layers_are_the_base_s_bit_for_bit(base_model: StudentModel) -> None:
    recipe = tiny_recipe().student
    student = cut_student(replace(recipe, keep_layers=(1,)), find_base(recipe.base), TEXTS)

    for name, value in student.encoder.blocks[0].state_dict().items():
        assert torch.equal(value, base_model.encoder.blocks[1].state_dict()[name]), name


def test_a_layer_that_is_not_there_is_named() -> None:
    recipe = replace(tiny_recipe().student, keep_layers=(0, 7))
    with pytest.raises(ConfigError, match="names layer 7; the base has 0 to 1"):
        cut_student(recipe, find_base(recipe.base), TEXTS)


def test_a_base_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere has no config\.json"):
        find_base("/nowhere")


def test_the_known_base_is_the_one_whose_digest_is_pinned() -> None:
    assert find_base("minilm").sha256 == MINILM_SHA256


def test_a_trimmed_vocabulary_reads_seen_texts_as_before_and_spells_the_rest() -> None:
    full = find_base(str(tiny_base())).tokenizer
    trimmed = trim_vocabulary(full, ["refund my purchase"], 90, 16)
    new = tokenise(trimmed.tokenizer, ["refund my purchase", "statement"])
    old = tokenise(full, ["refund my purchase"])

    assert old.ids[0] == tuple(trimmed.kept[i] for i in new.ids[0])
    unknown = next(i for i, row in enumerate(trimmed.kept) if row == 1)
    assert unknown not in new.ids[1]
    assert len(new.ids[1]) == len("statement") + 2


def test_an_encoder_reads_a_batch_as_it_reads_its_rows(base_model: StudentModel) -> None:
    whole = encode(base_model, TEXTS[:12], batch=12)
    alone = np.concatenate([encode(base_model, [text]) for text in TEXTS[:12]])

    assert whole == pytest.approx(alone, abs=1e-5)


def test_the_same_seed_gives_the_same_weights(base_model: StudentModel) -> None:
    recipe = _recipe(epochs=1)
    _, first = _train(base_model, recipe)
    _, second = _train(base_model, recipe)
    _, other = _train(base_model, replace(recipe, seed=99))

    assert _same(first.model, second.model)
    assert not _same(first.model, other.model)


def _same(one: StudentModel, other: StudentModel) -> bool:
    pairs = zip(one.encoder.parameters(), other.encoder.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_distillation_brings_the_student_nearer_to_the_base(base_model: StudentModel) -> None:
    recipe = _recipe(epochs=12, body_rate=1e-3)
    vectors_only = ObjectiveRecipe(emb=1.0, kd=0.0, ce=0.0, rkd=0.5)
    start, trained = _train(base_model, replace(recipe, objective=vectors_only))
    target = encode(base_model, TEXTS)
    before = float((encode(start, TEXTS) * target).sum(1).mean())
    after = float((encode(trained.model, TEXTS) * target).sum(1).mean())

    assert 1 - after < 0.7 * (1 - before)
    assert sum(trained.gradient_share.values()) == pytest.approx(1.0)


def test_frozen_embeddings_stay_and_the_start_is_not_touched(base_model: StudentModel) -> None:
    start, trained = _train(base_model, _recipe(epochs=2))
    fresh = cut_student(
        replace(tiny_recipe().student, keep_layers=(1,)), find_base(str(tiny_base())), TEXTS
    )

    assert torch.equal(trained.model.encoder.words.weight, start.encoder.words.weight)
    assert _same(start, fresh)
    assert not _same(start, trained.model)


@pytest.mark.parametrize("term", ["hid", "anchor", "unsure", "rationale"])
def test_every_optional_term_trains(base_model: StudentModel, term: str) -> None:
    recipe = _recipe(epochs=1)
    recipe = replace(recipe, objective=replace(recipe.objective, **{term: 1.0}, balance=True))
    lesson = _lesson(base_model)
    lesson = replace(
        lesson,
        champion=np.log(lesson.soft),
        rationales=lesson.vectors[::-1].copy(),
    )
    student = replace(recipe.student, keep_layers=(0, 1))
    start = cut_student(student, find_base(recipe.student.base), TEXTS)
    head = fit_head(lesson.vectors, lesson.labels, 4)
    trained = distil(start, lesson, head, recipe, base=base_model)

    assert term in trained.losses
    assert all(np.isfinite(value) for value in trained.losses.values())


@pytest.mark.parametrize("max_tokens", [128, 8])
def test_the_relation_term_trains_when_the_vocabulary_is_whole(
    base_model: StudentModel, max_tokens: int
) -> None:
    """Also where the student reads less of a long text than its base."""
    recipe = _recipe(epochs=1)
    recipe = replace(
        recipe,
        student=replace(recipe.student, vocabulary=0, max_tokens=max_tokens),
        objective=replace(recipe.objective, rel=1.0),
    )
    _, trained = _train(base_model, recipe)

    assert trained.losses["rel"] >= 0.0
    assert trained.gradient_share["rel"] == 0.0  # it pulls inside, not at the sentence vector


def test_every_row_is_seen_once_an_epoch() -> None:
    batches = plan_batches([5, 9, 3, 7, 7, 20, 4], DistilRecipe(epochs=2, batch=3), 1)

    assert [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6] == sorted(i for b in batches for i in b)


def test_steps_are_bounded_from_below_and_above() -> None:
    lengths = [4] * 10
    assert len(plan_batches(lengths, DistilRecipe(epochs=1, batch=5, min_steps=9), 1)) == 9
    assert len(plan_batches(lengths, DistilRecipe(epochs=50, batch=5, max_steps=7), 1)) == 7
    assert plan_batches(lengths, DistilRecipe(epochs=0), 1) == []


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [schedule(step, 100, 0.06) for step in range(100)]

    assert max(rates) == rates[5] == 1.0
    assert rates[-1] < 0.001
    assert rates[6:] == sorted(rates[6:], reverse=True)


def _perfect(rows: int = 5, classes: int = 3) -> tuple[Output, Batch]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    logits = torch.randn(rows, classes, generator=generator)
    soft = torch.softmax(logits, -1)
    batch = Batch(vectors, soft, logits.argmax(-1), torch.ones(rows), champion=logits)
    return Output(vectors, logits, torch.ones(rows, 4)), batch


@pytest.mark.parametrize("name", ["emb", "kd", "rkd", "anchor", "unsure"])
def test_a_perfect_student_loses_nothing(name: str) -> None:
    out, batch = _perfect()
    recipe = ObjectiveRecipe(emb=0, kd=0, ce=0, rkd=0, cap=1.0)
    value = terms(out, batch, replace(recipe, **{name: 1.0}))[name]  # type: ignore[arg-type] # a term's name

    assert float(value) == pytest.approx(0.0, abs=1e-5)


def test_the_soft_label_term_has_the_value_worked_out_by_hand() -> None:
    # T = 2, teacher (0.8, 0.2), student (0.5, 0.5): the teacher softens to (2/3, 1/3).
    batch = Batch(torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]), torch.tensor([0]), torch.ones(1))
    out = Output(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 3))
    recipe = ObjectiveRecipe(emb=0, ce=0, rkd=0, kd=1.0, temperature=2.0, cap=1.0)
    expected = 4 * (2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3))

    assert float(terms(out, batch, recipe)["kd"]) == pytest.approx(expected, abs=1e-6)


def test_capping_keeps_a_distribution_and_its_order() -> None:
    soft = torch.tensor([[0.999, 0.001, 0.0], [0.5, 0.3, 0.2], [0.0, 0.0, 0.0]])
    result = capped(soft, 0.97)

    assert result[0].max() == pytest.approx(0.97)
    assert result[:2].sum(-1).tolist() == pytest.approx([1.0, 1.0])
    assert torch.equal(result[1:], soft[1:])


@pytest.fixture(scope="module")
def shipped() -> tuple[StudentModel, bytes]:
    """The exported graph of day 0, with the model it came from."""
    workspace, bundle = day_zero()
    (graph,) = (workspace / "stages").glob("export-*")
    return load_model(workspace / "checkpoints" / bundle.name), (
        graph / "encoder.onnx"
    ).read_bytes()


def test_the_graph_answers_as_torch_for_every_length(shipped: tuple[StudentModel, bytes]) -> None:
    # A frozen dimension or a tied input shows only on other shapes than the example's.
    model, graph = shipped
    texts = ["a", *TEXTS[:5], " ".join(TEXTS)]

    assert check_parity(model, graph, texts) < 1e-4


def test_the_graph_takes_batches_with_padding(shipped: tuple[StudentModel, bytes]) -> None:
    model, graph = shipped
    ids, mask = tokenise(model.tokenizer, TEXTS[:9]).batch(range(9))
    feed = dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True))
    (vectors,) = open_graph(graph).run([OUTPUT], feed)

    assert vectors == pytest.approx(encode(model, TEXTS[:9]), abs=1e-4)


def test_a_graph_of_other_weights_is_not_taken_for_the_student(
    shipped: tuple[StudentModel, bytes],
) -> None:
    model, graph = shipped
    other = cut_student(
        replace(tiny_recipe().student, keep_layers=(0,)),
        find_base(str(tiny_base())),
        [r.text for r in seed_rows()],
    )
    stranger = replace(other, tokenizer=model.tokenizer)
    with pytest.raises(BundleError, match="differs from torch"):
        check_parity(stranger, graph, TEXTS[:3])


def test_int8_is_a_quarter_and_says_nearly_the_same(shipped: tuple[StudentModel, bytes]) -> None:
    model, graph = shipped
    small = quantise_dynamic(graph, reduce_range=True)
    compared = parity(graph, small, model.tokenizer, TEXTS)

    assert compared.worst_cosine > 0.99
    assert compared.bytes_after < compared.bytes_before
    assert inspect_graph(small).quantises_at_run_time
    assert run_graph(open_graph(small), model.tokenizer, TEXTS[:2]).shape == (2, 32)
