"""What leaves the process: redaction, the product's own hook, hashed subjects. Fails closed.

Patterns find what looks like contact data or numbers; they are a net, not a proof. A product that
knows its data better gives `before_send`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

from understudy.edge.config import PrivacyConfig, Redaction
from understudy.edge.text import readable
from understudy.types.records import EscalationRecord

BeforeSend = Callable[[EscalationRecord], EscalationRecord | None]
"""Gives a record with another `text`, `subject` or `top`; other changes do not count."""

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_URL = re.compile(r"\b(?:https?://|www\.)\S{1,2000}", re.IGNORECASE)
# Digits in groups, with the separators people use; the length rules out years and amounts.
_PHONE = re.compile(r"(?<![\w.])\+?\(?\d(?:[\s().\-/]{0,2}\d){6,14}(?!\w)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_NUMBER = re.compile(r"\d(?:[\s.\-/]?\d){2,}")

_CONTACTS = ((_EMAIL, "[email]"), (_URL, "[link]"), (_PHONE, "[phone]"))
_PATTERNS: dict[Redaction, tuple[tuple[re.Pattern[str], str], ...]] = {
    Redaction.NONE: (),
    Redaction.CONTACTS: _CONTACTS,
    Redaction.STRICT: (*_CONTACTS[:2], (_IBAN, "[account]"), (_NUMBER, "[number]")),
}


def redact(text: str, preset: Redaction) -> str:
    """Replaces what the preset names by a word in brackets."""
    for pattern, word in _PATTERNS[preset]:
        text = pattern.sub(word, text)
    return text


def subject_tag(subject: str, key: bytes) -> str:
    """A keyed digest of a subject: the same person, the same tag, on this node only."""
    return hashlib.blake2b(subject.encode("utf-8", "replace"), digest_size=16, key=key).hexdigest()


class Outbox:
    """The last step before a record leaves or is written to disk.

    Args:
        config: Presets.
        key: Secret of the node, for hashed subjects.
        before_send: The product's hook: a record to send instead, or None to send nothing.
    """

    def __init__(
        self, config: PrivacyConfig, key: bytes, before_send: BeforeSend | None = None
    ) -> None:
        self._config, self._key, self._before_send = config, key, before_send

    def clear(self, record: EscalationRecord) -> EscalationRecord | None:
        """What may leave; None for nothing, which is also what a failing hook means."""
        if not self._config.send_text:
            return None
        text = redact(record.text, self._config.redaction)
        subject = self.tag(record.subject)
        if text != record.text or subject != record.subject:
            record = replace(record, text=text, subject=subject)
        if self._before_send is None:
            return record
        try:
            cleared = self._before_send(record)
            if cleared is None:
                return None
            # Only these are the product's; what the statistics rest on stays as it was drawn.
            text, subject = readable(cleared.text), readable(cleared.subject)
            return replace(record, text=text, subject=subject, top=tuple(cleared.top))
        except Exception:  # noqa: BLE001 - whatever the product's hook does, nothing is sent
            return None

    def tag(self, subject: str) -> str:
        """How a subject is named outside of the product."""
        subject = readable(subject)
        if not subject or not self._config.hash_subjects:
            return subject
        return subject_tag(subject, self._key)
