"""The bytes of a row: MessagePack by field name, which keeps infinity and takes added fields."""

from __future__ import annotations

import msgspec

from understudy.types.errors import DataError
from understudy.types.records import EscalationRecord, TeacherLabel

_encoder = msgspec.msgpack.Encoder()
_records = msgspec.msgpack.Decoder(EscalationRecord)
_labels = msgspec.msgpack.Decoder(TeacherLabel)


def encode_record(record: EscalationRecord) -> bytes:
    """The record's bytes; `decode_record` is the inverse."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> EscalationRecord:
    """Reads a record.

    Raises:
        DataError: If the bytes are no record.
    """
    try:
        return _records.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DataError(f"the log holds a row that is no record: {error}") from error


def encode_label(label: TeacherLabel | None) -> bytes | None:
    """The label's bytes, None for none; `decode_label` is the inverse."""
    return None if label is None else _encoder.encode(label)


def decode_label(data: bytes | None) -> TeacherLabel | None:
    """Reads a teacher's label.

    Raises:
        DataError: If the bytes are no label.
    """
    if data is None:
        return None
    try:
        return _labels.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DataError(f"the log holds a teacher's answer that is none: {error}") from error
