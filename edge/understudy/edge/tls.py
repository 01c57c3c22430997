"""What a link proves itself with, and where it needs to: values without gRPC."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LinkCredentials:
    """What the link proves itself with, PEM.

    Attributes:
        ca_certificate: Who must have signed the server's certificate.
        certificate: The node's own; empty before enrolment.
        key: The key of `certificate`.
        server_name: Name in the server's certificate, where it differs from the address.
    """

    ca_certificate: bytes
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    server_name: str = ""


def is_loopback(address: str) -> bool:
    """True for `localhost`, 127.0.0.0/8, ::1 and Unix sockets."""
    if address.startswith("unix:"):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
