"""What an operator hands to a node that shall join."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A one-time invitation, carried to the node as a JSON file with these keys.

    Attributes:
        node: Id the node will have.
        token: Good once.
        enroll_address: Where to enrol, `host:port`.
        address: Where to connect afterwards, `host:port`.
        ca_certificate: Whom to trust, PEM.
        expires_unix_s: Until when the token is good.
    """

    node: str
    token: str
    enroll_address: str
    address: str
    ca_certificate: str
    expires_unix_s: float
