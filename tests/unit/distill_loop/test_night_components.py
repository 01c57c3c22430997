"""Every kind of student: its shape, how it starts, and that it can learn and ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from simulators.night_world import NOW, seed_rows, tiny_base, tiny_recipe, utterances
from understudy.distill_loop.adapters import LowRank, add_lora, merge_adapters
from understudy.distill_loop.base import find_base
from understudy.distill_loop.build import BUILDERS, build_student, find_builder
from understudy.distill_loop.checkpoint import load_model, save_model
from understudy.distill_loop.components import narrow, prune_ffn, prune_heads
from understudy.distill_loop.distil import Lesson, distil
from understudy.distill_loop.encoder import Experts, Trace, parameter_count
from understudy.distill_loop.export import check_parity, export_onnx
from understudy.distill_loop.head import fit_head
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.run import run_night
from understudy.distill_loop.student import StudentModel, encode, tokenise, whole_base
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import read_bundle
from understudy.edge.student import Student
from understudy.types.errors import ConfigError

TEXTS = [text for text, _ in utterances(32, 4)]


def _recipe(use: str, **changes: object) -> StudentRecipe:
    return replace(tiny_recipe().student, use=use, **changes)  # type: ignore[arg-type] # tests name fields


def _build(use: str, **changes: object) -> StudentModel:
    return build_student(_recipe(use, **changes), find_base(str(tiny_base())), TEXTS)


@pytest.mark.parametrize("use", sorted(BUILDERS))
def test_every_student_learns_and_survives_the_disk(use: str, tmp_path: Path) -> None:
    # One interface: a component that cannot be trained, saved and read again is no component.
    recipe = tiny_recipe(student=_recipe(use))
    recipe = replace(recipe, distil=replace(recipe.distil, epochs=2, embedding_rate=1e-3))
    model = build_student(recipe.student, find_base(str(tiny_base())), TEXTS)
    base = whole_base(find_base(str(tiny_base())))
    labels = np.arange(len(TEXTS)) % 2
    lesson = Lesson(
        texts=TEXTS,
        vectors=encode(base, TEXTS),
        soft=np.zeros((len(TEXTS), 2), np.float32),
        labels=labels,
        weights=np.ones(len(TEXTS), np.float32),
    )
    trained = distil(model, lesson, fit_head(lesson.vectors, labels, 2), recipe)
    learned = replace(trained.model, encoder=merge_adapters(trained.model.encoder).eval())
    save_model(learned, tmp_path)
    read = load_model(tmp_path)

    assert encode(read, TEXTS) == pytest.approx(encode(learned, TEXTS), abs=1e-6)
    assert not np.allclose(encode(learned, TEXTS), encode(model, TEXTS), atol=1e-5)


def test_an_unknown_student_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"no student 'slimm'.*slim"):
        find_builder("slimm")


def test_a_plug_in_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A package of somebody else's, with metadata as an installer writes it.
    (tmp_path / "their_students.py").write_text(
        "from understudy.distill_loop.student import cut_student\n"
        "def tall(recipe, base, texts):\n    return cut_student(recipe, base, texts)\n"
    )
    metadata = tmp_path / "their_students-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-students\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[understudy.student]\ntall = their_students:tall\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert _build("tall").encoder.spec == _build("slim").encoder.spec


def test_pruning_nothing_changes_nothing() -> None:
    model = _build("slim")
    for made in (prune_heads(model.encoder, 4), prune_ffn(model.encoder, 64)):
        same = encode(replace(model, encoder=made), TEXTS)
        assert same == pytest.approx(encode(model, TEXTS), abs=1e-6)


def test_pruning_has_the_shape_that_was_asked_for() -> None:
    made = _build("pruned", heads=2, ffn=16, hidden=24).encoder
    spec = made.spec

    assert ((2, 2), (16, 16), 24, 32) == (spec.heads, spec.ffn, spec.hidden, spec.vector)
    assert parameter_count(made) < 0.8 * parameter_count(_build("slim").encoder)


def test_pruning_the_least_head_costs_less_than_pruning_the_best() -> None:
    # Importance must rank the right way round: kill a head, and it is the one to go.
    model = _build("slim")
    encoder = model.encoder
    with torch.no_grad():
        for block in encoder.blocks:
            block.attention.out.weight[:, 8:16] = 0.0  # type: ignore[union-attr,operator] # head 1
    made = prune_heads(encoder, 3)

    assert encode(replace(model, encoder=made), TEXTS) == pytest.approx(
        encode(model, TEXTS), abs=1e-5
    )


def test_a_narrow_student_of_nearly_full_width_still_resembles_the_base() -> None:
    model = _build("slim")
    thin = replace(model, encoder=narrow(model.encoder, 28))

    assert (encode(thin, TEXTS) * encode(model, TEXTS)).sum(1).mean() > 0.8
    assert encode(thin, TEXTS).shape == (32, 32)


@pytest.mark.parametrize(
    ("use", "changes", "says"),
    [
        ("pruned", {"heads": 5}, "student.heads must lie in"),
        ("pruned", {"ffn": 65}, "student.ffn must lie in"),
        ("pruned", {"hidden": 32}, "student.hidden must lie in"),
        ("moe", {"options": {"experts": 2, "top_k": 3}}, "top_k"),
        ("mod", {"options": {"capacity": 0.0}}, "capacity"),
        ("lora", {"options": {"rank": 0}}, "rank"),
    ],
)
def test_an_impossible_shape_is_one_sentence(
    use: str, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        _build(use, **changes)


def test_a_shared_student_has_one_block_whatever_its_depth() -> None:
    shallow, deep = (_build("shared", options={"depth": depth}).encoder for depth in (1, 5))

    assert parameter_count(shallow) == parameter_count(deep)
    assert len(deep.spec.uses) == 5


def test_a_mixture_of_experts_starts_as_the_dense_layer() -> None:
    dense, mixed = _build("slim"), _build("moe", options={"experts": 3})

    assert (encode(dense, TEXTS) * encode(mixed, TEXTS)).sum(1).min() > 0.999
    assert _build("moe", options={"experts": 1}).encoder.spec == dense.encoder.spec


def test_each_token_goes_to_its_best_experts_and_their_gates_sum_to_one() -> None:
    torch.manual_seed(0)
    experts = Experts(8, 16, experts=4, top_k=2)
    gates = experts.route(torch.randn(3, 5, 8))

    assert (gates > 0).sum(-1).unique().tolist() == [2]
    assert gates.sum(-1).flatten().tolist() == pytest.approx([1.0] * 15, abs=1e-5)


def test_the_balance_term_is_lowest_when_all_experts_are_used_alike() -> None:
    experts = Experts(4, 8, experts=4, top_k=1)
    with torch.no_grad():
        experts.gate.weight.copy_(torch.eye(4) * 8)
        experts.gate.bias.zero_()
    even = torch.eye(4).unsqueeze(0)
    crowded = torch.eye(4)[:1].expand(4, 4).unsqueeze(0)

    assert float(experts.balance(even).detach()) == pytest.approx(1.0, abs=1e-3)
    assert float(experts.balance(crowded).detach()) > 3.5


def test_full_capacity_is_the_ordinary_student_and_routers_are_asked_to_save() -> None:
    whole = _build("mod", options={"capacity": 1.0})
    half = _build("mod", options={"capacity": 0.5})
    ids, mask = tokenise(half.tokenizer, TEXTS[:4]).batch(range(4))
    trace = Trace()
    half.encoder.train()(ids, mask, trace)

    assert encode(whole, TEXTS) == pytest.approx(encode(_build("slim"), TEXTS), abs=1e-6)
    assert trace.penalty is not None
    assert float(trace.penalty.detach()) > 0


def test_adapters_learn_little_and_merge_into_the_same_function() -> None:
    model = _build("slim")
    adapted = add_lora(model.encoder, 2)
    for module in adapted.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.up, std=0.05)
    learn = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    merged = merge_adapters(adapted)

    assert learn < 0.3 * parameter_count(model.encoder)
    before = encode(replace(model, encoder=adapted), TEXTS)
    assert encode(replace(model, encoder=merged), TEXTS) == pytest.approx(before, abs=1e-5)
    assert not [m for m in merged.modules() if isinstance(m, LowRank)]


def test_a_prompt_leaves_the_base_alone() -> None:
    model = _build("prompt", options={"length": 3})
    learn = [name for name, p in model.encoder.named_parameters() if p.requires_grad]

    assert ["prompt"] == learn
    assert model.encoder.prompt is not None
    assert model.encoder.prompt.shape == (3, 32)


@pytest.mark.slow
@pytest.mark.parametrize("use", ["moe", "mod", "prompt"])
def test_what_routes_or_prompts_answers_alike_in_the_graph(use: str) -> None:
    # Routing is where an exporter may freeze the example's choice into the graph.
    model = _build(use)
    graph = export_onnx(model)

    assert check_parity(model, graph, ["a", *TEXTS[:4], " ".join(TEXTS[:6])]) < 1e-4


def test_a_static_student_ships_without_a_graph(tmp_path: Path) -> None:
    # The edge runs a table and nothing else; the whole night must hold for it too.
    recipe = tiny_recipe(student=_recipe("static"))
    sources = Sources(seed=seed_rows(16), now_unix_s=NOW)
    result = run_night(recipe, Workspace(tmp_path), sources, name="n1")
    bundle = read_bundle(result.directory)
    student = Student.load(bundle)
    said = student.run([text for text, _ in utterances(80, 77)]).logits.argmax(1)
    right = [student.labels[i] == y for i, (_, y) in zip(said, utterances(80, 77), strict=True)]

    assert bundle.manifest.runtime == "static"
    assert "encoder.onnx" not in bundle.manifest.files
    assert sum(right) / len(right) > 0.5  # chance is an eighth
