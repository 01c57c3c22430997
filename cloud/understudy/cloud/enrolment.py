"""How a node gets its certificate, keeps it, and loses it.

An operator invites a node: a one-time token is made, of which only the digest is kept. The node
shows token and signing request, and gets a short-lived certificate; later it renews with the one it
has. Revoking puts the serial numbers of all its certificates on the deny-list.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from understudy.cloud.authority import CertificateAuthority, Identity, check_node, read_identity
from understudy.cloud.state import SharedState
from understudy.types.errors import AccessError, DataError
from understudy.types.invitation import Invitation

_TOKEN, _NODE, _DENIED = "token/", "node/", "denied/"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What the cloud keeps about a node.

    Attributes:
        node: Its id.
        enrolled_unix_s: When it first got a certificate.
        renewed_unix_s: When it last got one.
        serials: Expiry of each of its certificates by serial number.
        revoked_unix_s: When it was revoked; 0 while it is welcome.
    """

    node: str
    enrolled_unix_s: float
    renewed_unix_s: float
    serials: dict[str, float] = field(default_factory=dict)
    revoked_unix_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    node: str
    expires_unix_s: float
    used: bool = False


class Enrolment:
    """Invites, enrols, renews and revokes; every change is durable when a method returns."""

    def __init__(
        self,
        authority: CertificateAuthority,
        state: SharedState,
        *,
        trust_domain: str,
        node_days: float,
        now: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._state = state
        self._domain = trust_domain
        self._node_days = node_days
        self._now = now

    @property
    def ca_certificate(self) -> bytes:
        """Whom nodes and gateways trust, PEM."""
        return self._authority.certificate_pem

    def invite(
        self, node: str, *, address: str, enroll_address: str, ttl_s: float = 3600.0
    ) -> Invitation:
        """A one-time invitation.

        Raises:
            InvalidValueError: If `node` may not name a node.
        """
        token = secrets.token_urlsafe(32)
        expires = self._now() + ttl_s
        record = _Token(node=check_node(node), expires_unix_s=expires)
        self._state.put(_token_key(token), msgspec.json.encode(record))
        return Invitation(
            node=node,
            token=token,
            enroll_address=enroll_address,
            address=address,
            ca_certificate=self.ca_certificate.decode(),
            expires_unix_s=expires,
        )

    def enroll(self, token: str, request_pem: bytes) -> tuple[str, bytes]:
        """Node id and certificate, PEM, for a token that was not used before.

        Raises:
            AccessError: If the token is unknown, used or too old.
            InvalidValueError: If the signing request is unusable; the token stays good.
        """
        key = _token_key(token)
        stored = self._state.get(key)
        if stored is None:
            raise AccessError("this enrolment token is unknown; ask the operator for a new one")
        found = msgspec.json.decode(stored, type=_Token)
        if found.used or found.expires_unix_s < self._now():
            why = "was used before" if found.used else "is too old"
            raise AccessError(f"this enrolment token {why}; ask the operator for a new one")
        certificate = self._authority.sign_node(request_pem, found.node, days=self._node_days)
        if not self._state.swap(key, stored, msgspec.json.encode(replace(found, used=True))):
            raise AccessError("this enrolment token was used before; ask for a new one")
        self._remember(found.node, certificate, welcome=True)
        return found.node, certificate

    def renew(self, identity: Identity, request_pem: bytes) -> bytes:
        """A fresh certificate, PEM, for a node that shows a good one.

        Raises:
            AccessError: If the node was revoked.
            InvalidValueError: If the signing request is unusable.
        """
        certificate = self._authority.sign_node(request_pem, identity.node, days=self._node_days)
        self._remember(identity.node, certificate, welcome=False)
        return certificate

    def revoke(self, node: str) -> None:
        """Puts every certificate of the node on the deny-list; a new invitation lets it back.

        Raises:
            DataError: If no such node was ever enrolled.
        """
        key = f"{_NODE}{node}"
        while (stored := self._state.get(key)) is not None:
            record = msgspec.json.decode(stored, type=NodeRecord)
            revoked = replace(record, revoked_unix_s=self._now())
            if self._state.swap(key, stored, msgspec.json.encode(revoked)):
                for serial, expires in record.serials.items():
                    self._state.put(f"{_DENIED}{serial}", msgspec.json.encode(expires))
                return
        raise DataError(f"no node '{node}' was ever enrolled; `understudy node list` names all")

    def nodes(self) -> list[NodeRecord]:
        """Every node ever enrolled, by id."""
        found = self._state.items(_NODE).values()
        records = [msgspec.json.decode(value, type=NodeRecord) for value in found]
        return sorted(records, key=lambda record: record.node)

    def denied(self) -> frozenset[str]:
        """Serial numbers on the deny-list that have not run out; the others are forgotten."""
        good, now = set(), self._now()
        for key, value in self._state.items(_DENIED).items():
            if msgspec.json.decode(value, type=float) < now:
                self._state.delete(key)
            else:
                good.add(key.removeprefix(_DENIED))
        return frozenset(good)

    def _remember(self, node: str, certificate: bytes, *, welcome: bool) -> None:
        """Adds a certificate to the node's record, whoever else is changing it."""
        identity = read_identity(certificate, trust_domain=self._domain)
        if identity is None:
            raise DataError("the authority signed a certificate that names no node")
        key, now = f"{_NODE}{node}", self._now()
        while True:
            stored = self._state.get(key)
            record = _read_record(stored, node, now)
            if record.revoked_unix_s and not welcome:
                raise AccessError(f"node '{node}' was revoked; it needs a new invitation")
            serials = {s: until for s, until in record.serials.items() if until > now}
            serials[identity.serial] = identity.expires_unix_s
            after = replace(record, renewed_unix_s=now, serials=serials, revoked_unix_s=0.0)
            if self._state.swap(key, stored, msgspec.json.encode(after)):
                return


def _read_record(stored: bytes | None, node: str, now: float) -> NodeRecord:
    if stored is None:
        return NodeRecord(node=node, enrolled_unix_s=now, renewed_unix_s=now)
    return msgspec.json.decode(stored, type=NodeRecord)


def _token_key(token: str) -> str:
    return _TOKEN + hashlib.sha256(token.encode()).hexdigest()
