"""Rules of `edge.yaml`: a wrong file is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.edge.config import EdgeConfig, Mode, Redaction, load_config
from understudy.types.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "edge.yaml"
    file.write_text(text)
    return file


def test_a_whole_file_is_understood(tmp_path: Path) -> None:
    """Every block is reachable from YAML, relative paths start at the file."""
    file = written(
        tmp_path,
        """
        bundle: students/first
        state_dir: /var/lib/understudy
        gateway:
          address: ${GATEWAY:-localhost:8443}
          tls: {ca: ca.pem, certificate: node.pem, key: node.key}
        mode: answer_first
        deadline_ms: 250
        privacy: {redaction: contacts}
        contract: {on_uncertified: serve, max_teacher_share: 0.2}
        spool: {max_bytes: 1000}
        """,
    )

    config = load_config(file, {"GATEWAY": "cloud:1"})

    assert config.bundle == str(tmp_path / "students/first")
    assert config.state_dir == "/var/lib/understudy"
    assert config.gateway.address == "cloud:1"
    assert config.gateway.tls is not None
    assert config.gateway.tls.key == str(tmp_path / "node.key")
    assert (config.mode, config.deadline_ms) == (Mode.ANSWER_FIRST, 250)
    assert config.privacy.redaction is Redaction.CONTACTS


def test_a_bundle_directory_is_config_enough(tmp_path: Path) -> None:
    """The five lines of the README need no file."""
    assert load_config(tmp_path) == EdgeConfig(bundle=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bundel: x", r"unknown key 'bundel'\. Did you mean 'bundle'\?"),
        ("bundle: x\nspool: {max_row: 1}", "Did you mean 'max_rows'"),
        ("bundle: x\ndeadline_ms: -1", "deadline_ms must be positive"),
        ("bundle: x\ndeadline_ms: .nan", "deadline_ms must be positive"),
        ("bundle: x\nmode: waiting", "mode"),
        ("mode: wait", "name a bundle directory, a state_dir, or both"),
        ("bundle: x\naudit: {rate: 0}", "audit.rate"),
        ("bundle: x\naudit: {key: short}", "audit.key"),
        ("bundle: x\nspool: {key: zz}", "spool.key"),
        ("bundle: x\nspool: {max_rows: 0}", "bound of the spool"),
        ("bundle: x\ncache: {entries: -1}", "cache.entries"),
        ("bundle: x\ncontract: {max_teacher_share: 0}", "max_teacher_share"),
        (
            "bundle: x\ncontract: {max_teacher_share: 0.2, early_lead: 0.9}",
            "needs .* early_requests",
        ),
        ("bundle: x\ncontract: {early_lead: 0.9, early_requests: 9}", "max_teacher_share below 1"),
        ("bundle: x\nupdater: {check_interval_s: 0}", "updater"),
        ("bundle: x\ngateway: {tls: {ca: a, key: b}}", "go together"),
        ("- a", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("bundle: ${NOWHERE}", "NOWHERE"),
    ],
)
def test_a_wrong_file_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """One sentence, and the reader knows which key to change."""
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(written(tmp_path, text), {})
    assert "edge.yaml" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing and binary files are the two usual slips."""
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "edge.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "edge.yaml")


def test_keys_are_not_in_the_repr() -> None:
    """A config that is logged must not give the audit or the spool away."""
    from understudy.edge.config import AuditConfig, SpoolConfig

    config = EdgeConfig(
        bundle="x", audit=AuditConfig(key="s" * 20), spool=SpoolConfig(key="ab" * 32)
    )

    assert "sss" not in repr(config)
    assert "abab" not in repr(config)
