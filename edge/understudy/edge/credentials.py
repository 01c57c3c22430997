"""What a link proves itself with: the node's PEM files, read, watched, renewed before they end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from understudy.edge.config import TlsFiles
from understudy.edge.identity import make_request
from understudy.edge.ports import Renewal
from understudy.edge.tls import LinkCredentials
from understudy.files import write_atomic
from understudy.types.errors import ConfigError

RENEW_AT = 2 / 3
"""Share of a certificate's life after which it is renewed; the rest is for a cloud that is away."""
_RENEW_TIMEOUT_S = 30.0

Fingerprint = tuple[tuple[int, int], ...]


class Renewer(Protocol):
    """Who signs a fresh certificate."""

    def renew(self, certificate_request: bytes, timeout_s: float) -> Renewal:
        """Trades the current certificate and a request (PEM) for a fresh one."""
        ...


def read_credentials(tls: TlsFiles) -> LinkCredentials:
    """Reads what the link proves itself with.

    Raises:
        ConfigError: If a file cannot be read.
    """
    return LinkCredentials(
        ca_certificate=_read(tls.ca, "ca"),
        certificate=_read(tls.certificate, "certificate") if tls.certificate else b"",
        key=_read(tls.key, "key") if tls.key else b"",
        server_name=tls.server_name,
    )


def fingerprint(tls: TlsFiles) -> Fingerprint:
    """Changes whenever a file is written; files that are absent count as such."""
    return tuple(_stat(path) for path in (tls.ca, tls.certificate, tls.key))


def renew_if_due(tls: TlsFiles, link: Renewer, clock: Callable[[], float] = time.time) -> bool:
    """Renews the node's certificate when two thirds of its life are over; True if it did.

    Raises:
        UnderstudyError: If the cloud does not renew it; the present one stays.
        OSError: If it cannot be written; likewise.
    """
    if not tls.certificate or clock() < _due_unix_s(Path(tls.certificate).read_bytes()):
        return False
    _, request = make_request(Path(tls.key).read_bytes())
    renewal = link.renew(request, _RENEW_TIMEOUT_S)
    write_atomic(Path(tls.certificate), renewal.certificate)
    if renewal.ca_certificate:
        write_atomic(Path(tls.ca), renewal.ca_certificate)
    return True


def _due_unix_s(certificate: bytes) -> float:
    from cryptography import x509

    read = x509.load_pem_x509_certificate(certificate)
    begins, ends = read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()
    return begins + RENEW_AT * (ends - begins)


def _read(path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"gateway.tls.{key}: {path} cannot be read: {error.strerror}") from error


def _stat(path: str) -> tuple[int, int]:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return (0, 0)
    return (found.st_mtime_ns, found.st_size) if path else (0, 0)
