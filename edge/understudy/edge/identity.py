"""A node's identity: a key that never leaves it, and a certificate for it.

Enrolment trades a one-time token for the first certificate; renewal trades the current one for a
fresh one. Files are written whole, key before certificate, readable by their owner only.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from understudy.files import write_atomic
from understudy.types.errors import ConfigError
from understudy.types.invitation import Invitation

CA, CERTIFICATE, KEY, ROOT = "ca.pem", "node.pem", "node-key.pem", "root.json"
_ENROLL_TIMEOUT_S = 30.0


def read_invitation(path: Path) -> Invitation:
    """Reads an invitation.

    Raises:
        ConfigError: If the file is no invitation.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Invitation)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no invitation: {error}") from error


def enroll(invitation: Invitation, folder: Path, *, timeout_s: float = _ENROLL_TIMEOUT_S) -> str:
    """Makes a key, has it signed, and writes key, certificate, authority and trusted root.

    Args:
        invitation: From the operator.
        folder: Where the four files go; made when missing.
        timeout_s: Longest wait for the cloud, seconds.

    Returns:
        The node's id as the cloud wrote it into the certificate.

    Raises:
        AccessError: If the token is unknown, used or too old.
        LinkError: If the cloud cannot be reached.
    """
    from understudy.edge.transport.channel import LinkCredentials
    from understudy.edge.transport.link import CloudLink

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, request = make_request()
    credentials = LinkCredentials(ca_certificate=invitation.ca_certificate.encode())
    link = CloudLink(invitation.enroll_address, credentials)
    try:
        given = link.enroll(invitation.token, request, timeout_s)
    finally:
        link.close()
    write_atomic(folder / KEY, key)
    write_atomic(folder / CERTIFICATE, given.certificate)
    write_atomic(folder / CA, given.ca_certificate)
    if given.trusted_root:
        write_atomic(folder / ROOT, given.trusted_root)
    return given.node


def make_request(key_pem: bytes = b"") -> tuple[bytes, bytes]:
    """A private key, new unless given, and a signing request for it; both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if key_pem:
        loaded = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ConfigError("the node's key must be an elliptic-curve key; enrol the node again")
        key = loaded
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(key, hashes.SHA256())
    return key_pem, signed.public_bytes(serialization.Encoding.PEM)
