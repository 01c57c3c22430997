"""Label tokens of a server that shows its tokenizer, as vLLM's does: exact numbers, not a list.

A list of likely tokens leaves out the unlikely classes; a bias or a mask on the label tokens would
hide how much of the distribution fell on none of them. vLLM gives the log-probability of any token
asked for. What token a letter is where the answer begins is asked of the server itself.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher.prompt import letter_marks
from understudy.types.errors import AccessError, InvalidValueError, TeacherError

_log = logging.getLogger(__name__)

MAX_TOKEN_IDS = 128
"""VLLM takes no more token ids in one request."""
_MARK = "token_id:"

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Posts a body to a path beside the protocol's own, and gives the reply."""


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """Codes that are one token each where an answer begins.

    Attributes:
        codes: What stands in the list of options.
        ids: The server's token of each.
    """

    codes: tuple[str, ...]
    ids: tuple[int, ...]

    def first(self, count: int) -> LabelTokens:
        """The first so many."""
        return LabelTokens(self.codes[:count], self.ids[:count])


async def find_label_tokens(ask: Ask, question: dict[str, Any], count: int) -> LabelTokens | None:
    """One-token codes, each checked behind the question; None if the server does not tell.

    Args:
        ask: Posts to the server.
        question: Model, messages and template arguments of any question.
        count: How many codes are wanted, at most `MAX_TOKEN_IDS`.
    """
    try:
        asked = _ids(await ask("tokenize", question | {"add_generation_prompt": True}))
        reply = await ask("detokenize", {"model": question["model"], "tokens": asked})
        text = str(reply["prompt"])
        if await _tokens(ask, question, text) != asked:
            return None
        found = await _one_token_codes(ask, question, text, asked, count)
    # Hosted servers also forbid what they do not have; the key itself was taken before.
    except (AccessError, InvalidValueError, TeacherError, KeyError, TypeError, ValueError) as error:
        _log.info("the server does not show its tokens, its lists are read instead: %s", error)
        return None
    return found if len(found.codes) == count else None


async def _one_token_codes(
    ask: Ask, question: dict[str, Any], text: str, asked: list[int], count: int
) -> LabelTokens:
    codes: dict[int, str] = {}
    for code in itertools.islice(letter_marks(), 26 + 4 * count):
        if len(codes) == count:
            break
        both = await _tokens(ask, question, text + code)
        if both[:-1] == asked:
            codes.setdefault(both[-1], code)
    return LabelTokens(tuple(codes.values()), tuple(codes))


async def _tokens(ask: Ask, question: dict[str, Any], text: str) -> list[int]:
    # The template has brought its own special tokens; they are in the text.
    body = {"model": question["model"], "prompt": text, "add_special_tokens": False}
    return _ids(await ask("tokenize", body))


def _ids(reply: dict[str, Any]) -> list[int]:
    ids = [int(one) for one in reply["tokens"]]
    if not ids:
        raise ValueError("it found no tokens in a question")
    return ids


def wanted(tokens: LabelTokens) -> dict[str, Any]:
    """What a chat request says to get exactly these log-probabilities."""
    return {
        "max_tokens": 1,
        "logprobs": True,
        "logprob_token_ids": list(tokens.ids),
        "return_tokens_as_token_ids": True,
    }


def read_log_probs(reply: dict[str, Any], ids: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Full-vocabulary log-probability of each token, and the share of all of them together.

    Raises:
        TeacherError: If the reply leaves one out.
    """
    try:
        listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        given = {str(one["token"]): float(one["logprob"]) for one in listed}
        scores = np.array([given[f"{_MARK}{token}"] for token in ids])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TeacherError("the server left out log-probabilities that it was asked for") from error
    return scores, float(np.exp(scores).sum())
