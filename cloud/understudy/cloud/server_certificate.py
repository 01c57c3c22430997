"""The certificate the gateway shows: the operator's own files, or one its authority renews."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from understudy.cloud.authority import Credential
from understudy.types.errors import ConfigError

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = 1.0


class FileCertificate:
    """The operator's files, read again when they change; a broken pair leaves the last good one."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Reads the files.

        Raises:
            ConfigError: If they cannot be read.
        """
        self._paths = (certificate, key)
        self._lock = threading.Lock()
        self._looked_s = time.monotonic()
        self._stamp = self._look()
        self._credential = self._read()

    def current(self) -> Credential:
        """The certificate in force."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_s >= _LOOK_AGAIN_S:
                self._looked_s = now
                self._reload()
            return self._credential

    def _reload(self) -> None:
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._credential, self._stamp = self._read(), stamp
        except ConfigError as error:
            _log.warning("the old certificate stays in use: %s", error)

    def _look(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in self._paths)
        except OSError as error:
            raise ConfigError(f"tls: {error.filename} cannot be read: {error.strerror}") from error

    def _read(self) -> Credential:
        certificate, key = self._paths
        try:
            credential = Credential(certificate.read_bytes(), key.read_bytes())
        except OSError as error:
            raise ConfigError(f"tls: {error.filename} cannot be read: {error.strerror}") from error
        check_pair(credential, str(certificate))
        return credential


class IssuedCertificate:
    """A certificate of our own authority, renewed after two thirds of its life."""

    def __init__(self, issue: Callable[[], Credential]) -> None:
        self._issue = issue
        self._lock = threading.Lock()
        self._renew_unix_s = 0.0
        self._credential = Credential(b"", b"")
        self._renew()

    def current(self) -> Credential:
        """The certificate in force."""
        with self._lock:
            if time.time() >= self._renew_unix_s:
                self._renew()
            return self._credential

    def _renew(self) -> None:
        self._credential = self._issue()
        certificate = x509.load_pem_x509_certificate(self._credential.certificate)
        ends, now = certificate.not_valid_after_utc.timestamp(), time.time()
        self._renew_unix_s = now + (ends - now) * 2.0 / 3.0


def check_pair(credential: Credential, source: str) -> None:
    """Passes if key and certificate belong together.

    Raises:
        ConfigError: If they do not, or cannot be read; gRPC would only fail each handshake.
    """
    from cryptography.hazmat.primitives import serialization

    public = serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        shown = x509.load_pem_x509_certificate(credential.certificate).public_key()
        own = serialization.load_pem_private_key(credential.key, password=None).public_key()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"tls: {source} or its key is no PEM: {error}") from error
    encoding = serialization.Encoding.DER
    if shown.public_bytes(encoding, public) != own.public_bytes(encoding, public):
        raise ConfigError(f"tls: the key does not belong to the certificate {source}")
