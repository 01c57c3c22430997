"""A teacher behind HTTP: its lists become labels, its moods become our errors."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from simulators.openai_server import OpenAIServer, running
from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherEngine
from understudy.cloud.teacher.openai_engine import OpenAIEngine
from understudy.cloud.teacher.reply import MAX_REPLY_BYTES
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import (
    AccessError,
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

LABELS = ("card_lost", "card_fee")


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with running(OpenAIServer()) as started:
        yield started


def spec(server: OpenAIServer) -> TeacherSpec:
    return TeacherSpec(
        engine=Engine.OPENAI,
        model="tiny",
        address=server.address,
        labels=LABELS,
        timeout_s=10.0,
        engine_args={"seed": 7},
        api_key_variable="UNDERSTUDY_TEST_KEY",
    )


@pytest.fixture
async def engine(server: OpenAIServer) -> AsyncIterator[OpenAIEngine]:
    started = OpenAIEngine(spec(server))
    await started.start()
    yield started
    await started.stop()


async def test_the_servers_list_becomes_a_distribution(
    engine: OpenAIEngine, server: OpenAIServer
) -> None:
    (answer,) = await engine.score_labels([ScoreRequest(text='my "card"')])

    assert isinstance(engine, TeacherEngine)
    assert isinstance(answer, TeacherLabel)
    assert answer.label == "card_lost"
    assert answer.probability == pytest.approx(2 / 3)
    assert answer.label_mass == pytest.approx(0.9)
    (body,) = server.heard
    assert body["model"] == "tiny"
    assert body["seed"] == 7
    assert body["max_tokens"] == 1
    assert "A. card lost\nB. card fee" in body["messages"][0]["content"]


async def test_many_classes_are_told_apart_by_two_letters(
    engine: OpenAIEngine, server: OpenAIServer
) -> None:
    server.steps = [{"B": 0.9, "A": 0.1}, {"C": 0.8, "D": 0.2}]
    labels = tuple(f"class_{index}" for index in range(77))

    (answer,) = await engine.score_labels([ScoreRequest(text="x", labels=labels)])

    assert isinstance(answer, TeacherLabel)
    assert answer.label == "class_28"  # BC
    assert math.exp(answer.log_probs[0]) == pytest.approx(0.72, abs=1e-3)


async def test_a_continuation_must_be_one_of_the_choices(
    engine: OpenAIEngine, server: OpenAIServer
) -> None:
    asked = GenerateRequest(prompt="is it?", choices=("yes", "no"))
    (said,) = await engine.generate([asked])
    server.text = "perhaps"
    (other,) = await engine.generate([asked])
    (free,) = await engine.generate([replace(asked, choices=())])

    assert said == Generation(text="yes")
    assert isinstance(other, TeacherError)
    assert free == Generation(text="perhaps")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (JSONResponse({}, 429, headers={"Retry-After": "3"}), OverloadedError),
        (JSONResponse({}, 503), OverloadedError),
        (JSONResponse({}, 401), AccessError),
        (JSONResponse({"error": "too long"}, 400), InvalidValueError),
        (PlainTextResponse("oops", 500), TeacherError),
        (PlainTextResponse("not json"), TeacherError),
        (JSONResponse([1]), TeacherError),
        (JSONResponse({"choices": []}), TeacherError),
        (JSONResponse({"choices": [{"logprobs": None}]}), TeacherError),
        (PlainTextResponse("x" * (MAX_REPLY_BYTES + 1)), TeacherError),
    ],
    ids=[
        "too many requests",
        "unavailable",
        "wrong key",
        "refused",
        "broken",
        "not json",
        "no object",
        "no choice",
        "no log-probabilities",
        "endless",
    ],
)
async def test_each_mood_of_the_server_is_one_of_our_errors(
    engine: OpenAIEngine, server: OpenAIServer, reply: Response, kind: type[UnderstudyError]
) -> None:
    server.reply = reply

    (answer,) = await engine.score_labels([ScoreRequest(text="x")])

    assert type(answer) is kind
    if isinstance(answer, OverloadedError):
        assert answer.retry_after_s == pytest.approx(float(reply.headers.get("retry-after", 1)))


async def test_a_slow_server_costs_no_more_than_the_deadline(
    engine: OpenAIEngine, server: OpenAIServer
) -> None:
    server.delay_s = 1.0
    soon = time.time() + 0.2
    late, never = await engine.score_labels(
        [ScoreRequest(text="x", deadline_unix_s=soon), ScoreRequest(text="y", deadline_unix_s=1.0)]
    )

    assert isinstance(late, DeadlineError)
    assert isinstance(never, DeadlineError)
    assert ["x"] == [body["messages"][0]["content"].split('"')[1] for body in server.heard]


async def test_a_server_that_goes_away_is_a_link_that_is_down() -> None:
    async with running(OpenAIServer()) as server:
        engine = OpenAIEngine(spec(server))
        await engine.start()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])

    assert isinstance(answer, LinkDownError)
    with pytest.raises(TeacherError):
        await engine.health()
    await engine.stop()
    await engine.stop()


async def test_nobody_at_the_address_is_said_at_the_start() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    lonely = OpenAIServer(address=address)

    with pytest.raises(ConfigError, match=r"teacher\.address: http://127"):
        await OpenAIEngine(spec(lonely)).start()


async def test_the_key_comes_from_the_environment(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret"
    with pytest.raises(ConfigError, match="refuses the key"):
        await OpenAIEngine(spec(server)).start()

    monkeypatch.setenv("UNDERSTUDY_TEST_KEY", "secret")
    engine = OpenAIEngine(spec(server))
    await engine.start()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.stop()

    assert isinstance(answer, TeacherLabel)


async def test_no_more_requests_are_under_way_than_a_batch_holds(server: OpenAIServer) -> None:
    """A hosted server counts them, and every gateway would otherwise open its own hundred."""
    server.delay_s = 0.2
    engine = OpenAIEngine(replace(spec(server), max_batch=2))
    await engine.start()
    call = asyncio.create_task(engine.score_labels([ScoreRequest(text=str(i)) for i in range(5)]))
    await asyncio.wait([call], timeout=0.1)
    begun = len(server.heard)
    await call
    await engine.stop()

    assert begun <= 2
    assert len(server.heard) == 5


async def test_a_server_that_shows_its_tokens_is_asked_for_the_classes_own(
    server: OpenAIServer,
) -> None:
    """A class too unlikely for any list has its true probability, and the mass is the true one."""
    server.tokens = {ord("A"): 0.5, ord("B"): 1e-5}
    engine = OpenAIEngine(spec(server))
    await engine.start()
    server.heard.clear()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.stop()

    assert isinstance(answer, TeacherLabel)
    assert answer.label_mass == pytest.approx(0.50001)
    assert math.exp(answer.log_probs[1]) == pytest.approx(1e-5 / 0.50001, rel=1e-6)
    (body,) = server.heard
    assert [ord("A"), ord("B")] == body["logprob_token_ids"]
    assert {"enable_thinking": False} == body["chat_template_kwargs"]
    assert "top_logprobs" not in body


async def test_many_classes_of_such_a_server_have_codes_of_one_token(server: OpenAIServer) -> None:
    """Two letters that melt into one token are a code; two that do not are none."""
    server.merges = {"AC": 1000, "AF": 1001}
    server.tokens = {ord("A") + index: 0.01 for index in range(26)} | {1000: 0.3, 1001: 0.2}
    labels = tuple(f"class_{index}" for index in range(28))
    engine = OpenAIEngine(replace(spec(server), labels=labels))
    await engine.start()
    server.heard.clear()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.stop()

    assert isinstance(answer, TeacherLabel)
    assert ("class_26", "class_27") == answer.labels[:2]
    assert answer.label_mass == pytest.approx(0.76)
    assert "AC. class 26\nAF. class 27" in server.heard[0]["messages"][0]["content"]


@pytest.mark.parametrize("obeys", [False, True], ids=["an older vllm", "too few tokens"])
async def test_a_server_that_only_seems_to_is_read_by_its_lists(
    server: OpenAIServer, *, obeys: bool
) -> None:
    """What it does not do is found at the start, not with the first user's question."""
    server.tokens, server.obeys = {ord("A"): 0.5}, obeys
    labels = tuple(f"class_{index}" for index in range(40)) if obeys else LABELS
    server.steps = [{"A": 0.9, "B": 0.05}, {"A": 1.0}]
    engine = OpenAIEngine(replace(spec(server), labels=labels))
    await engine.start()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.stop()

    assert isinstance(answer, TeacherLabel)
    assert "top_logprobs" in server.heard[-1]
    assert "chat_template_kwargs" not in server.heard[-1]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_server_that_forbids_what_it_does_not_have_is_read_by_its_lists(
    server: OpenAIServer, status: int
) -> None:
    """Gateways and hosted servers say so in many ways; none of them means the key."""
    server.unknown = status
    engine = OpenAIEngine(spec(server))
    await engine.start()
    (answer,) = await engine.score_labels([ScoreRequest(text="x")])
    await engine.stop()

    assert isinstance(answer, TeacherLabel)
    assert "top_logprobs" in server.heard[-1]


async def test_more_classes_than_tokens_are_known_fall_back_to_the_list(
    server: OpenAIServer,
) -> None:
    """A request may name other classes than the configuration."""
    server.tokens = {ord("A"): 0.5, ord("B"): 0.25}
    server.steps = [{"A": 0.9}, {"B": 1.0}]
    engine = OpenAIEngine(spec(server))
    await engine.start()
    labels = tuple(f"class_{index}" for index in range(60))
    few, many = await engine.score_labels(
        [ScoreRequest(text="x"), ScoreRequest(text="x", labels=labels)]
    )
    await engine.stop()

    assert isinstance(few, TeacherLabel)
    assert isinstance(many, TeacherLabel)
    assert few.label_mass == pytest.approx(0.75)
    assert many.label == "class_1"
