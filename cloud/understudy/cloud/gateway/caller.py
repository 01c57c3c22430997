"""Who is calling: the identity of the certificate, carried beside the request."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

from understudy.cloud.authority import Identity, read_identity
from understudy.cloud.gateway.ports import Context
from understudy.types.errors import AccessError

_MAX_CACHED = 16_384

_caller: ContextVar[Identity] = ContextVar("caller")


class UnidentifiedError(AccessError):
    """The connection shows no certificate that names a node."""


def current_caller() -> Identity:
    """Who made the call that is being answered.

    Raises:
        UnidentifiedError: If the call came without a node's certificate.
    """
    try:
        return _caller.get()
    except LookupError:
        raise UnidentifiedError("show a node's certificate to call this") from None


class Doorkeeper:
    """Reads certificates and turns away those that are revoked or have run out.

    TLS has checked the chain when the connection was made; connections live long, so dates and the
    deny-list are checked again with every call.
    """

    def __init__(self, *, trust_domain: str, now: Callable[[], float] = time.time) -> None:
        self._domain = trust_domain
        self._now = now
        self._known: dict[bytes, Identity | None] = {}
        self.denied: frozenset[str] = frozenset()

    def admit(self, context: Context) -> Identity:
        """The caller's identity, remembered for `current_caller`.

        Raises:
            UnidentifiedError: If there is no certificate, or none of a node of ours.
            AccessError: If it was revoked or has run out.
        """
        identity = self._identify(context)
        if identity is None:
            raise UnidentifiedError("the certificate names no node of this cloud; enrol the node")
        if identity.serial in self.denied:
            raise AccessError(f"node '{identity.node}' was revoked; ask the operator")
        if identity.expires_unix_s < self._now():
            raise AccessError(f"the certificate of node '{identity.node}' ran out; enrol it again")
        _caller.set(identity)
        return identity

    def _identify(self, context: Context) -> Identity | None:
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            return None
        if pem not in self._known:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[pem] = read_identity(pem, trust_domain=self._domain)
        return self._known[pem]
