"""Request ids: UUID version 7, so that they sort by time and need no server."""

from __future__ import annotations

import os
import time


def new_request_id() -> str:
    """A fresh UUIDv7; 74 random bits from the operating system, so forked children never repeat."""
    value = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80
    value |= int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
