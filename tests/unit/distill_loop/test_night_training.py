"""What a student learns by in its last steps and at its exits: rounding, mixing, stopping early."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simulators.night_world import seed_rows, teacher_label, tiny_base, tiny_recipe, utterances
from understudy.distill_loop import schooling
from understudy.distill_loop.base import find_base
from understudy.distill_loop.build import build_student
from understudy.distill_loop.compress import quantise_dynamic
from understudy.distill_loop.distil import Lesson, Trained, distil, plan_batches
from understudy.distill_loop.export import check_parity, export_onnx, open_graph, run_graph
from understudy.distill_loop.fakequant import round_weight, start_rounding, stop_rounding
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.night import Night, Sources
from understudy.distill_loop.objective import Batch, Output, terms
from understudy.distill_loop.recipe import DistilRecipe, ObjectiveRecipe, Recipe
from understudy.distill_loop.split import Folds
from understudy.distill_loop.student import StudentModel, encode, whole_base
from understudy.distill_loop.workspace import Workspace
from understudy.edge.graph import inspect_graph
from understudy.types.errors import ConfigError

TEXTS = [text for text, _ in utterances(48, 11)]
ONLY = ObjectiveRecipe(emb=0.0, kd=0.0, ce=0.0, rkd=0.0)


def _student(use: str = "slim", **options: float) -> StudentModel:
    recipe = replace(tiny_recipe().student, use=use, options=options)
    return build_student(recipe, find_base(str(tiny_base())), TEXTS)


def _lesson(classes: int = 4) -> Lesson:
    vectors = encode(whole_base(find_base(str(tiny_base()))), TEXTS)
    labels = np.arange(len(TEXTS)) % classes
    soft = np.full((len(TEXTS), classes), 0.1 / (classes - 1), np.float32)
    soft[np.arange(len(TEXTS)), labels] = 0.9
    return Lesson(
        texts=TEXTS,
        vectors=vectors,
        soft=soft,
        labels=labels,
        weights=np.ones(len(TEXTS), np.float32),
    )


def _train(model: StudentModel, recipe: Recipe) -> Trained:
    lesson = _lesson()
    return distil(model, lesson, fit_head(lesson.vectors, lesson.labels, 4), recipe)


def _recipe(objective: ObjectiveRecipe | None = None, **distil_changes: object) -> Recipe:
    plain = tiny_recipe()
    changed = {"epochs": 2, "max_steps": 8, **distil_changes}
    return replace(
        plain,
        objective=objective or plain.objective,
        distil=replace(plain.distil, **changed),  # type: ignore[arg-type] # tests name fields
    )


@pytest.mark.slow
@pytest.mark.parametrize("reduced", [True, False])
def test_rounding_in_training_is_the_rounding_of_the_int8_graph(*, reduced: bool) -> None:
    # A student that learns to live with another rounding than the edge's learns for nothing.
    model = _student()
    rounded = copy.deepcopy(model.encoder)
    start_rounding(rounded, reduced=reduced)
    graph = quantise_dynamic(export_onnx(model), reduce_range=reduced)
    shipped = run_graph(open_graph(graph), model.tokenizer, TEXTS)

    assert encode(replace(model, encoder=rounded), TEXTS, batch=1) == pytest.approx(
        shipped, abs=1e-5
    )
    assert np.abs(encode(model, TEXTS) - shipped).max() > 1e-3


def test_rounding_leaves_the_weights_and_lets_gradients_through() -> None:
    model = _student()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    start_rounding(model.encoder, reduced=True)
    weight = torch.randn(3, 5, requires_grad=True)
    round_weight(weight, 128).sum().backward()
    stop_rounding(model.encoder)

    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [1.0]
    after = model.encoder.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_last_steps_round_and_the_student_that_ships_is_float() -> None:
    plain = _train(_student(), _recipe())
    rounded = _train(_student(), _recipe(quantised=0.5))

    assert plain.model.encoder.state_dict().keys() == rounded.model.encoder.state_dict().keys()
    assert not np.allclose(
        encode(plain.model, TEXTS), encode(rounded.model, TEXTS), atol=1e-6
    )  # what was learned differs


def test_mixing_a_row_with_nothing_of_the_other_is_its_own_soft_label() -> None:
    torch.manual_seed(0)
    soft = torch.softmax(torch.randn(6, 4), -1)
    out = Output(torch.randn(6, 8), torch.randn(6, 4), torch.ones(6, 3))
    ones = torch.ones(6)
    batch = Batch(torch.randn(6, 8), soft, torch.zeros(6, dtype=torch.int64), ones)
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    own = terms(out, batch, replace(ONLY, kd=1.0))["kd"]

    def mixed(share: float) -> float:
        given = replace(batch, partner=partner, share=share)
        return float(terms(out, given, replace(ONLY, mixup=1.0))["mixup"])

    assert mixed(1.0) == pytest.approx(float(own), abs=1e-6)
    assert mixed(0.0) == pytest.approx(float(own), abs=1e-6)  # the partners are a permutation
    # Relative entropy is convex in both arguments; softened it is nearly so.
    assert mixed(0.5) < float(own)


def test_mixing_is_zero_where_the_head_says_what_the_teacher_says_of_all() -> None:
    soft = torch.full((4, 3), 1.0 / 3.0)
    out = Output(torch.randn(4, 8), torch.zeros(4, 3), torch.ones(4, 2))
    batch = Batch(torch.randn(4, 8), soft, torch.zeros(4, dtype=torch.int64), torch.ones(4))
    given = replace(batch, partner=torch.tensor([3, 2, 1, 0]), share=0.3)

    assert float(terms(out, given, replace(ONLY, mixup=1.0))["mixup"]) == pytest.approx(
        0.0, abs=1e-6
    )


def test_the_same_seed_mixes_the_same_rows() -> None:
    recipe = _recipe(replace(ONLY, emb=1.0, mixup=1.0))
    first, again = (_train(_student(), recipe) for _ in range(2))
    other = _train(_student(), replace(recipe, objective=replace(recipe.objective, mixup=0.0)))

    assert encode(first.model, TEXTS) == pytest.approx(encode(again.model, TEXTS), abs=1e-7)
    assert not np.allclose(encode(first.model, TEXTS), encode(other.model, TEXTS), atol=1e-6)


def test_every_term_that_pulls_is_reported_with_its_share() -> None:
    objective = ObjectiveRecipe(emb=1.0, kd=0.9, ce=0.1, rkd=0.5, unsure=0.1, mixup=0.5)
    share = _train(_student(), _recipe(objective)).gradient_share

    assert set(share) == {"emb", "kd", "ce", "rkd", "unsure", "mixup"}
    assert sum(share.values()) == pytest.approx(1.0)
    assert min(share[name] for name in ("emb", "kd", "ce", "rkd", "mixup")) > 0.0


def test_an_exit_is_learned_only_by_a_student_that_has_one() -> None:
    plain = _train(_student(), _recipe())
    early = _train(_student("early_exit"), _recipe())

    assert "exit" not in plain.losses
    assert early.losses["exit"] > 0.0


def test_a_row_that_may_stop_gets_its_early_vector_whatever_its_neighbours_do() -> None:
    model = _student("early_exit", after=1, sure=0.9)
    leave = model.encoder.exit
    assert leave is not None
    with torch.no_grad():
        leave.project.weight.mul_(-1.0)  # an early answer can be told from a late one
        leave.gate.weight.normal_(std=40.0, generator=torch.manual_seed(3))
    alone, together = encode(model, TEXTS, batch=1), encode(model, TEXTS, batch=16)
    late = encode(_student(), TEXTS)
    stopped = np.abs(alone - late).max(axis=1) > 1e-4

    assert 0.1 < stopped.mean() < 0.9
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_an_early_exit_is_one_graph_that_answers_as_torch_does_and_shrinks_whole() -> None:
    model = _train(_student("early_exit", after=1, sure=0.5), _recipe(max_steps=30)).model
    leave = model.encoder.exit
    assert leave is not None
    with torch.no_grad():
        leave.gate.weight.normal_(std=40.0, generator=torch.manual_seed(3))
    graph = export_onnx(model)
    small = quantise_dynamic(graph, reduce_range=True)
    vectors = run_graph(open_graph(graph), model.tokenizer, TEXTS)
    shrunk = run_graph(open_graph(small), model.tokenizer, TEXTS)

    assert check_parity(model, graph, TEXTS) < 1e-4
    assert "::If" in inspect_graph(small).operators
    # A layer left in float inside the branch would be four times the size.
    assert len(small) < 0.8 * len(graph)
    assert (vectors * shrunk).sum(1).mean() > 0.98


@pytest.mark.parametrize("options", [{"after": 2}, {"after": 0}, {"sure": 1.0}])
def test_an_exit_that_cannot_be_is_one_sentence(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"student.options: (after|sure) must lie in"):
        _student("early_exit", **options)


def test_batches_of_several_tasks_hold_rows_of_one_task_each() -> None:
    tasks = np.array([0] * 20 + [1] * 7)
    batches = plan_batches([5] * 27, DistilRecipe(epochs=2, batch=4), seed=1, tasks=tasks)

    assert all(len(set(tasks[rows].tolist())) == 1 for rows in batches)
    assert sorted({row for rows in batches for row in rows}) == list(range(27))


@pytest.mark.parametrize("reason", ["lost means that it is gone", ""])
def test_a_teacher_s_reasons_teach_as_a_term_of_their_own(reason: str, tmp_path: Path) -> None:
    # From the label in the log to the gradient: the reason is encoded by the base and aimed at.
    recipe = _recipe(ObjectiveRecipe(rationale=0.5))
    rows = tuple(
        replace(row, teacher=replace(teacher_label(row.label), rationale=reason))
        for row in seed_rows(3)
    )
    night = Night(recipe, Workspace(tmp_path), Sources(seed=rows))
    folds = Folds(train=rows, calibration=(), gate=())
    schooling.teach(night, schooling.build(night, folds), folds)
    share = night.figures["gradient_share"]

    assert (share["rationale"] > 0.0) == bool(reason)
    assert sum(share.values()) == pytest.approx(1.0)
