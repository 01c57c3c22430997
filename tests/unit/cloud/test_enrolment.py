"""Certificates and who gets them; the rules, without a network."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from understudy.cloud.authority import (
    CertificateAuthority,
    Identity,
    make_request,
    open_authority,
    read_identity,
)
from understudy.cloud.enrolment import Enrolment
from understudy.cloud.state import SqliteState
from understudy.types.errors import AccessError, ConfigError, DataError, InvalidValueError


@dataclass
class Desk:
    """An enrolment desk with a clock that a test sets."""

    enrolment: Enrolment
    now: list[float] = field(default_factory=lambda: [1_000_000.0])

    def enroll(self, node: str) -> Identity:
        invitation = self.enrolment.invite(node, address="a:1", enroll_address="a:2")
        _, pem = self.enrolment.enroll(invitation.token, make_request(node).certificate)
        return identity(pem)


def identity(pem: bytes) -> Identity:
    found = read_identity(pem, trust_domain="understudy")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return open_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def desk(authority: CertificateAuthority, tmp_path: Path) -> Iterator[Desk]:
    state, now = SqliteState(tmp_path / "state.db"), [1_000_000.0]
    enrolment = Enrolment(
        authority, state, trust_domain="understudy", node_days=14.0, now=lambda: now[0]
    )
    yield Desk(enrolment, now)
    state.close()


def test_the_authority_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    """A second start must not make every node's certificate worthless."""
    first = open_authority(tmp_path / "ca")

    assert first.certificate_pem == open_authority(tmp_path / "ca").certificate_pem
    assert 0o600 == stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode)


def test_a_broken_authority_is_said(tmp_path: Path) -> None:
    """Half a backup was restored."""
    open_authority(tmp_path)
    (tmp_path / "ca.pem").unlink()

    with pytest.raises(ConfigError, match="no usable certificate authority"):
        open_authority(tmp_path)


def test_whatever_a_request_claims_the_certificate_says_the_invited_node(desk: Desk) -> None:
    """The name comes from the operator's invitation, never from the node."""
    invitation = desk.enrolment.invite("kiosk-1", address="a:1", enroll_address="a:2")

    node, pem = desk.enrolment.enroll(invitation.token, make_request("admin").certificate)

    assert ("kiosk-1", "kiosk-1") == (node, identity(pem).node)
    certificate = x509.load_pem_x509_certificate(pem)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("node", ["", "-a", "a b", "a/b", "x" * 64, "ü", "../a"])
def test_a_name_that_could_be_read_twice_is_no_node(desk: Desk, node: str) -> None:
    """Names become parts of URIs, files and metric labels."""
    with pytest.raises(InvalidValueError, match="node's id"):
        desk.enrolment.invite(node, address="", enroll_address="")


def test_a_token_runs_out(desk: Desk) -> None:
    """An invitation that was found in a drawer is worthless."""
    invitation = desk.enrolment.invite("k", address="", enroll_address="", ttl_s=60)
    desk.now[0] += 61

    with pytest.raises(AccessError, match="is too old"):
        desk.enrolment.enroll(invitation.token, make_request("k").certificate)


def test_a_bad_request_leaves_the_token_good(desk: Desk) -> None:
    """A typing error must not cost a walk to the operator."""
    invitation = desk.enrolment.invite("k", address="", enroll_address="")
    with pytest.raises(InvalidValueError):
        desk.enrolment.enroll(invitation.token, b"garbage")

    assert "k" == desk.enrolment.enroll(invitation.token, make_request("k").certificate)[0]


def test_the_token_itself_is_not_kept(desk: Desk, tmp_path: Path) -> None:
    """Who reads the state file must not be able to enrol."""
    token = desk.enrolment.invite("k", address="", enroll_address="").token

    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert token.encode() not in files


def test_a_weak_key_gets_no_certificate(desk: Desk) -> None:
    """1,024 bits of RSA are no identity."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is to be refused
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "k")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    invitation = desk.enrolment.invite("k", address="", enroll_address="")

    with pytest.raises(InvalidValueError, match="2048 bits or more"):
        desk.enrolment.enroll(invitation.token, request.public_bytes(serialization.Encoding.PEM))


def test_revoking_denies_every_certificate_the_node_has(desk: Desk) -> None:
    """A device that renewed twice holds three good certificates."""
    first = desk.enroll("k")
    second = identity(desk.enrolment.renew(first, make_request("k").certificate))
    other = desk.enroll("other")

    desk.enrolment.revoke("k")

    assert frozenset({first.serial, second.serial}) == desk.enrolment.denied()
    assert other.serial not in desk.enrolment.denied()


def test_a_revoked_node_does_not_renew(desk: Desk) -> None:
    """Even on a gateway that has not heard of it yet."""
    shown = desk.enroll("k")
    desk.enrolment.revoke("k")

    with pytest.raises(AccessError, match="was revoked"):
        desk.enrolment.renew(shown, make_request("k").certificate)


def test_the_deny_list_forgets_what_ran_out_anyway(desk: Desk) -> None:
    """It is asked with every call and must stay small."""
    shown = desk.enroll("k")
    desk.enrolment.revoke("k")
    desk.now[0] = shown.expires_unix_s + 1

    assert frozenset() == desk.enrolment.denied()


def test_revoking_a_stranger_is_an_error(desk: Desk) -> None:
    """A misspelt name must not leave the operator believing that it is done."""
    with pytest.raises(DataError, match="no node 'kiosk' was ever enrolled"):
        desk.enrolment.revoke("kiosk")


def test_a_certificate_that_names_no_node_of_ours_is_nobody(
    authority: CertificateAuthority,
) -> None:
    """Another domain, a server, or no certificate at all."""
    server = authority.issue_server(["localhost"], days=1).certificate
    node = authority.sign_node(make_request("k").certificate, "k", days=1)

    assert read_identity(server, trust_domain="understudy") is None
    assert read_identity(node, trust_domain="elsewhere") is None
    assert read_identity(b"garbage", trust_domain="understudy") is None
    assert "k" == identity(node).node
