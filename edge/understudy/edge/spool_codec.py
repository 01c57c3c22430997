"""A record as bytes on disk: checked by a sum, or sealed with the host's key.

The first byte names the layout, so that a newer client reads what an older one left behind.
"""

from __future__ import annotations

import hashlib
import os
import zlib

import msgspec

from understudy.types.errors import DataError
from understudy.types.records import EscalationRecord

_PLAIN, _SEALED = b"\x01", b"\x02"
_NONCE_BYTES = 12
_DECODER = msgspec.msgpack.Decoder(EscalationRecord)


class RecordCodec:
    """Seals and unseals records.

    Args:
        key: 32 bytes for AES-256-GCM; empty for plain bytes with a check sum.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._cipher = None
        if key:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(key)

    def seal(self, record: EscalationRecord) -> bytes:
        """The bytes of a record."""
        data = msgspec.msgpack.encode(record)
        if self._cipher is None:
            return _PLAIN + zlib.crc32(data).to_bytes(4, "big") + data
        nonce = os.urandom(_NONCE_BYTES)
        return _SEALED + nonce + self._cipher.encrypt(nonce, data, record.event_id.encode())

    def unseal(self, event_id: str, data: bytes) -> EscalationRecord:
        """The record behind the bytes.

        Raises:
            DataError: If they are damaged, sealed with another key, or another record's.
        """
        try:
            record = _DECODER.decode(self._open(event_id, data))
        except (msgspec.MsgspecError, ValueError) as error:
            raise DataError("a spooled record does not parse") from error
        if record.event_id != event_id:
            raise DataError("a spooled record lies under another's id")
        return record

    def subject_tag(self, subject: str) -> str:
        """How a subject is looked up without its name standing in the file."""
        if not subject:
            return ""
        data = subject.encode("utf-8", "replace")
        return hashlib.blake2b(data, digest_size=16, key=self._key).hexdigest()

    def _open(self, event_id: str, data: bytes) -> bytes:
        layout, body = data[:1], data[1:]
        if layout == _PLAIN:
            if zlib.crc32(body[4:]) != int.from_bytes(body[:4], "big"):
                raise DataError("a spooled record does not have its check sum")
            return body[4:]
        if layout != _SEALED or self._cipher is None:
            raise DataError("a spooled record is sealed, and there is no key")
        return self._unlock(event_id, body)

    def _unlock(self, event_id: str, body: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        assert self._cipher is not None  # noqa: S101 - the caller has looked
        try:
            return self._cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], event_id.encode())
        except (InvalidTag, ValueError) as error:
            raise DataError("a spooled record is sealed with another key") from error
