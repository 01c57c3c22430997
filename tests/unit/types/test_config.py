"""Configuration: what is written is what is meant, or one sentence says what to change."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from understudy.types.config import parse_config
from understudy.types.contract import Contract
from understudy.types.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    port: int = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    contract: Contract = field(default_factory=Contract)


def test_yaml_becomes_frozen_values() -> None:
    text = "inner: {port: 5, names: [a, b]}\nnamed: {x: {port: 2}}\ncontract: {kind: selective}"

    config = parse_config(text, Outer, source="f.yaml")

    assert Inner(5, ("a", "b")) == config.inner
    assert {"x": Inner(2)} == config.named
    assert "selective" == config.contract.kind


def test_an_empty_file_means_the_defaults() -> None:
    assert Outer() == parse_config("", Outer, source="f.yaml")


def test_variables_are_filled_in_and_may_have_defaults() -> None:
    text = "inner: {names: ['${HOST}', '${OTHER:-there}']}"

    config = parse_config(text, Outer, source="f.yaml", environment={"HOST": "here"})

    assert ("here", "there") == config.inner.names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("iner: {}", "unknown key 'iner'. Did you mean 'inner'", id="top"),
        pytest.param("inner: {prt: 5}", "unknown key 'inner.prt'. Did you mean 'port'", id="in"),
        pytest.param("parts: [{}, {prt: 5}]", "unknown key 'parts.1.prt'", id="in a list"),
        pytest.param("named: {x: {prt: 5}}", "unknown key 'named.x.prt'", id="in a mapping"),
        pytest.param("maybe: {prt: 5}", "unknown key 'maybe.prt'", id="in an optional"),
        pytest.param("zzz: 1", "Known keys: contract, inner", id="nothing alike"),
        pytest.param("inner: 5", "'inner.' must be a mapping", id="no mapping"),
        pytest.param("[1]", "the file must be a mapping", id="a list"),
        pytest.param("inner: {port: many}", "key `inner.port`", id="wrong type"),
        pytest.param("inner: [", "not valid YAML", id="broken"),
        pytest.param("inner: {names: ['${NOPE}']}", r"\$\{NOPE\} is not set", id="variable"),
        pytest.param("contract: {max_quality_loss: 7}", "between 0 and 1", id="rule of a value"),
        pytest.param("contract: {kind: jiont}", "key `contract.kind`", id="closed set of words"),
    ],
)
def test_a_mistake_gets_one_sentence_with_file_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(text, Outer, source="f.yaml")

    assert str(caught.value).startswith("f.yaml:")
    assert "\n" not in str(caught.value)
