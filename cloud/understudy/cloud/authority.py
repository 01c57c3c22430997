"""The certificate authority of a cloud: a key on disk that signs gateways and nodes.

A node's identity is a URI in its certificate, `spiffe://DOMAIN/node/ID`; whatever else a request
for a certificate says is ignored. Lives are short, so that a stolen key is of use for days only.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from understudy.cloud.releases.disk import locked
from understudy.files import write_atomic
from understudy.types.errors import ConfigError, InvalidValueError

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BACKDATE = dt.timedelta(minutes=5)
"""Clocks of nodes may run behind; a certificate is good a little before it was made."""
_CA_LIFE = dt.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says of the node that shows it.

    Attributes:
        node: Id of the node.
        serial: Serial number of the certificate, hexadecimal.
        expires_unix_s: When the certificate ends.
    """

    node: str
    serial: str
    expires_unix_s: float


class CertificateAuthority:
    """Signs certificates with one key; holds no other state."""

    def __init__(self, certificate: bytes, key: bytes, *, trust_domain: str) -> None:
        """Takes PEM as `open_authority` reads it."""
        self._certificate = x509.load_pem_x509_certificate(certificate)
        signer = serialization.load_pem_private_key(key, password=None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ConfigError("the authority's key must be an elliptic-curve key")
        self._signer = signer
        self._domain = trust_domain
        self.certificate_pem = certificate

    def issue_server(self, names: Sequence[str], *, days: float) -> Credential:
        """A fresh key and certificate for a gateway reached by these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        sans = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._sign(
            key.public_key(), names[0], sans, days, ExtendedKeyUsageOID.SERVER_AUTH
        )
        return Credential(_pem(certificate), _key_pem(key))

    def sign_node(self, request_pem: bytes, node: str, *, days: float) -> bytes:
        """A node's certificate, PEM, for the key of its signing request.

        Raises:
            InvalidValueError: If the request is unreadable, wrongly signed, or its key too weak.
        """
        request = _read_request(request_pem)
        uri = x509.UniformResourceIdentifier(f"spiffe://{self._domain}/node/{check_node(node)}")
        sans = x509.SubjectAlternativeName([uri])
        certificate = self._sign(
            request.public_key(), node, sans, days, ExtendedKeyUsageOID.CLIENT_AUTH
        )
        return _pem(certificate)

    def _sign(
        self,
        key: CertificatePublicKeyTypes,
        name: str,
        sans: x509.SubjectAlternativeName,
        days: float,
        usage: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signer.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(sans, critical=False)
            .add_extension(authority, critical=False)
            .sign(self._signer, hashes.SHA256())
        )


def open_authority(directory: Path, *, trust_domain: str = "understudy") -> CertificateAuthority:
    """The authority kept in a folder, made on the spot when there is none.

    Raises:
        ConfigError: If what lies there is no authority.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = directory / "ca.pem", directory / "ca.key"
    with locked(directory):
        if not key.exists():
            made = _make_authority(trust_domain)
            # The certificate comes last: with it in place the pair is whole.
            write_atomic(key, made.key)
            write_atomic(certificate, made.certificate, mode=0o644)
    try:
        return CertificateAuthority(
            certificate.read_bytes(), key.read_bytes(), trust_domain=trust_domain
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory} holds no usable certificate authority: {error}") from error


def make_request(node: str) -> Credential:
    """A new key and a signing request for it: `certificate` holds the request's PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(node))
    signed = request.sign(key, hashes.SHA256())
    return Credential(signed.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def read_identity(certificate_pem: bytes, *, trust_domain: str) -> Identity | None:
    """Who shows this certificate; None if it names no node of the domain."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    prefix = f"spiffe://{trust_domain}/node/"
    for uri in sans.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith(prefix) and _NODE.fullmatch(uri.removeprefix(prefix)):
            expires = certificate.not_valid_after_utc.timestamp()
            serial = f"{certificate.serial_number:x}"
            return Identity(uri.removeprefix(prefix), serial, expires)
    return None


def check_node(node: str) -> str:
    """Returns the id if it may name a node.

    Raises:
        InvalidValueError: If it may not.
    """
    if not _NODE.fullmatch(node):
        raise InvalidValueError(
            "a node's id is 1 to 63 letters, digits, dots, dashes or underscores, "
            f"beginning with a letter or digit, not '{node}'"
        )
    return node


def _read_request(request_pem: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"the certificate request cannot be read: {error}") from error
    if not valid:
        raise InvalidValueError("the certificate request is not signed by its own key")
    strong_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048
    if not (isinstance(key, ec.EllipticCurvePublicKey) or strong_rsa):
        raise InvalidValueError("a node's key must be elliptic-curve, or RSA of 2048 bits or more")
    return request


def _make_authority(trust_domain: str) -> Credential:
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(f"{trust_domain} authority"))
        .issuer_name(_name(f"{trust_domain} authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Credential(_pem(certificate), _key_pem(key))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
