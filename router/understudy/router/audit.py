"""The audit coin: a keyed hash of the request id, drawn before the confidence is looked at.

Standard library only. Same key, request and rate: same coin, on every machine and in every year.
The key is secret to the node, so that a caller cannot choose ids that miss the audit; the id is
made by the edge, so that a node cannot retry until the coin suits it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from understudy.types.errors import InvalidValueError

MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 64
"""BLAKE2b takes keys of up to 64 bytes."""
_SCALE = 2.0**-53


def coin(key: bytes, request_id: str, rate: float) -> bool:
    """Says whether this request is audited.

    Args:
        key: Secret of the node, 16 to 64 bytes.
        request_id: Id of the request, made by the edge.
        rate: Probability with which the coin falls, in [0, 1].
    """
    return uniform(key, request_id) < rate


def uniform(key: bytes, request_id: str) -> float:
    """Gives the number in [0, 1) that belongs to this request, with 53 random bits.

    Raises:
        InvalidValueError: If the key is too short to be a secret, or longer than the hash takes.
    """
    keyed = _keyed(key).copy()
    keyed.update(request_id.encode())
    return (int.from_bytes(keyed.digest(), "big") >> 11) * _SCALE


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hashlib.blake2b:
    """The hash with the key worked in, to copy: half of the work is done then."""
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise InvalidValueError(
            f"an audit key has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, not {len(key)}"
        )
    return hashlib.blake2b(digest_size=8, key=key)
