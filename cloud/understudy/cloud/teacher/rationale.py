"""Reasons for a label, asked as JSON: for distillation step by step."""

from __future__ import annotations

import json
from typing import Any

from understudy.cloud.teacher.prompt import Tokenizer, beginning, continued, text_tokens, wrapped
from understudy.cloud.teacher.spec import PromptOptions

_BEFORE = 'A text was classified as "{label}".\n\nText: "'
_AFTER = '"\n\nSay in one short sentence why, as JSON: {"because": "..."}'


def rationale_prompt(tokenizer: Tokenizer, text: str, label: str, *, thinking: bool) -> list[int]:
    """Tokens of the question."""
    before = _BEFORE.replace("{label}", label.replace("_", " "))
    head, tail = wrapped(tokenizer, before, _AFTER, thinking=thinking)
    return [
        *beginning(tokenizer, head),
        *text_tokens(tokenizer, text),
        *continued(tokenizer, tail),
    ]


def rationale_schema(options: PromptOptions) -> dict[str, Any]:
    """What the answer must look like; it is short enough to end within its tokens."""
    # A token is at least one character; the frame around the sentence takes some, too.
    room = max(1, options.rationale_tokens - 20)
    return {
        "type": "object",
        "properties": {"because": {"type": "string", "maxLength": room}},
        "required": ["because"],
        "additionalProperties": False,
    }


def read_rationale(answer: str) -> str:
    """The sentence; empty when the answer was cut off or says nothing."""
    try:
        found = json.loads(answer)
    except ValueError:
        return ""
    because = found.get("because") if isinstance(found, dict) else None
    return because.strip() if isinstance(because, str) else ""
