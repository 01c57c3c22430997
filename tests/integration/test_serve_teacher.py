"""A real teacher behind Ray Serve says the same as in process, batch by batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from simulators.models import tiny_encoder
from understudy.cloud.ray_start import RayOptions
from understudy.cloud.serve_app import TeacherDeployment
from understudy.cloud.serve_client import ServeTeacher
from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.teacher import GenerateRequest, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.encoder import SentenceEncoder
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.head import fit_head, head_spec, save_head
from understudy.cloud.teacher.payload import label_from_plain, request_to_plain
from understudy.cloud.teacher.spec import TeacherSpec, spec_to_plain
from understudy.types.errors import (
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    TeacherError,
)
from understudy.types.records import TeacherLabel

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]

TEXTS = ("i lost my card", "where is my card", "the fee for cash", "why was i charged a fee")
LABELS = ("card", "card", "fee", "fee")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TeacherSpec:
    folder = tmp_path_factory.mktemp("teacher")
    encoder = SentenceEncoder.load(tiny_encoder(folder / "encoder"))
    head = fit_head(encoder.encode(TEXTS), LABELS, base=str(folder / "encoder"))
    return head_spec(save_head(head, folder / "head"), max_batch=4, threads=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(ray_serve: RayOptions, spec: TeacherSpec) -> AsyncIterator[ServeTeacher]:
    options = ServeOptions(app="real", replica_cpus=0.1, drain_s=1.0, ray=ray_serve)
    teacher = ServeTeacher(spec, options)
    await teacher.start()
    yield teacher
    await teacher.stop()


async def test_serving_changes_no_answer(served: ServeTeacher, spec: TeacherSpec) -> None:
    """More inputs than one pass holds, so that batches are cut and joined on the way."""
    requests = [ScoreRequest(text=f"{text} {index}") for index in range(5) for text in TEXTS]
    engine = make_engine(spec)
    await engine.start()

    expected = await engine.score_labels(requests)
    actual = await served.score_labels(requests)
    await engine.stop()

    assert isinstance(served, TeacherEngine)
    assert engine.info() == served.info()
    for one, other in zip(expected, actual, strict=True):
        assert isinstance(one, TeacherLabel)
        assert isinstance(other, TeacherLabel)
        assert one.labels == other.labels
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-4)


async def test_calls_at_once_are_answered_each_with_its_own(served: ServeTeacher) -> None:
    calls = [served.score_labels([ScoreRequest(text=text)]) for text in TEXTS * 4]
    answers = await asyncio.gather(*calls)

    labels = [answer.label for (answer,) in answers if isinstance(answer, TeacherLabel)]
    assert list(LABELS * 4) == labels


async def test_one_bad_input_does_not_spoil_its_neighbours(served: ServeTeacher) -> None:
    good, wrong, late = await served.score_labels(
        [
            ScoreRequest(text=TEXTS[0]),
            ScoreRequest(text=TEXTS[0], labels=("cart", "fee")),
            ScoreRequest(text=TEXTS[0], deadline_unix_s=1.0),
        ]
    )

    assert isinstance(good, TeacherLabel)
    assert isinstance(wrong, InvalidValueError)
    assert "Did you mean 'card'" in str(wrong)
    assert isinstance(late, DeadlineError)


async def test_a_call_that_is_late_as_a_whole_is_not_made(served: ServeTeacher) -> None:
    started = time.time()
    (answer,) = await served.score_labels([ScoreRequest(text="x", deadline_unix_s=started - 1)])

    assert isinstance(answer, DeadlineError)
    assert [] == await served.score_labels([])


async def test_a_classifier_refuses_to_generate(served: ServeTeacher) -> None:
    (answer,) = await served.generate([GenerateRequest(prompt="once")])

    assert isinstance(answer, InvalidValueError)


async def test_a_teacher_that_cannot_load_says_why(ray_serve: RayOptions, tmp_path: Path) -> None:
    """The reason lies in a log of another process; the operator gets it in one sentence."""
    options = ServeOptions(app="broken", replica_cpus=0.1, drain_s=0.1, ray=ray_serve)
    spec = TeacherSpec(model=str(tmp_path / "nowhere"))

    with pytest.raises(ConfigError, match=r"teacher\.model: there is no folder"):
        await ServeTeacher(spec, options).start()


async def test_a_teacher_that_was_not_started_answers_with_an_error(spec: TeacherSpec) -> None:
    teacher = ServeTeacher(spec)
    (answer,) = await teacher.score_labels([ScoreRequest(text="x")])

    assert isinstance(answer, LinkDownError)  # the edge may ask again: a gateway listens first
    with pytest.raises(TeacherError):
        await teacher.health()
    await teacher.stop()


async def test_the_deployment_runs_without_ray(spec: TeacherSpec) -> None:
    """One box without a cluster, and every test of the payload's way."""
    deployment = TeacherDeployment(spec_to_plain(spec))
    with pytest.raises(TeacherError):
        await deployment.check_health()

    await deployment.start()
    await deployment.check_health()
    (plain,) = await deployment.score_labels([request_to_plain(ScoreRequest(text=TEXTS[3]))])
    (refusal,) = await deployment.generate([request_to_plain(GenerateRequest(prompt="p"))])
    info = await deployment.info()
    await deployment.stop()
    await deployment.stop()

    label = label_from_plain(plain)
    assert isinstance(label, TeacherLabel)
    assert label.label == "fee"
    assert refusal["error"] == "InvalidValueError"
    assert ["card", "fee"] == info["labels"]
