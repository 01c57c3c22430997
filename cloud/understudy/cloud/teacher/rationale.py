"""Reasons for a label, one line each: for distillation step by step."""

from __future__ import annotations

from understudy.cloud.teacher.prompt import Tokenizer, beginning, continued, text_tokens, wrapped

_BEFORE = 'A text was classified as "{label}".\n\nText: "'
_AFTER = '"\n\nSay in one short sentence why.'

# What a grammar holds the model to: something, on one line. Its length is bounded in tokens.
PATTERN = r"[^\r\n]+"


def rationale_prompt(
    tokenizer: Tokenizer, text: str, label: str, limit: int, *, thinking: bool
) -> list[int]:
    """Tokens of the question; the text gives way where they are more than `limit`."""
    before = _BEFORE.replace("{label}", label.replace("_", " "))
    start, end = wrapped(tokenizer, before, _AFTER, thinking=thinking)
    head, tail = beginning(tokenizer, start), continued(tokenizer, end)
    room = max(0, limit - len(head) - len(tail))
    return [*head, *text_tokens(tokenizer, text)[:room], *tail]
