"""Any `str` a product may pass, made readable for tokenizer and wire."""

from __future__ import annotations

from understudy.types.errors import InvalidValueError

MAX_CHARACTERS = 32_768
"""More is cut before tokenising: a student reads far less, and time must stay bounded."""


def readable(text: str) -> str:
    """Returns the text without what neither tokenizer nor protobuf can carry.

    NUL becomes a space, a lone surrogate a question mark, everything past `MAX_CHARACTERS` goes.

    Raises:
        InvalidValueError: If it is no `str` at all.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"predict takes a str, not {type(text).__name__}; decode it first")
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS]
    if "\0" in text:
        text = text.replace("\0", " ")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
