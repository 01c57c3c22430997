"""How an instruction model is asked for a class, and which tokens its answer is made of.

The options come before the text, so that all questions about one task share their beginning in the
engine's prefix cache. The text's own tokens can never be special ones: it cannot leave its quotes.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from understudy.cloud.teacher.spec import Alias, PromptOptions
from understudy.cloud.teacher.trie import AnswerTrie, build_trie
from understudy.types.errors import ConfigError, InvalidValueError

_CLOSING = "Answer with the option's {} only."
# Stands for the text while the template is filled in; cut out again before anything is tokenised.
_HOLE = "\ue000text\ue000"


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: str | None
    eos_token_id: int | None

    def __call__(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - untyped library
        """Encodes a text."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:  # noqa: ANN401 - untyped library
        """Fills the template in."""
        ...


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """One question about one set of classes, in tokens.

    Attributes:
        head: Tokens before the text.
        tail: Tokens after it, up to where the answer begins.
        trie: Answers, in the order of the classes.
        wording: Everything but the text, for the prompt's digest.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    trie: AnswerTrie
    wording: str

    def tokens(self, text: Sequence[int], path: Sequence[int], limit: int) -> list[int]:
        """Tokens of the question; the text gives way where they are more than `limit`.

        Raises:
            InvalidValueError: If there is no room for any text.
        """
        room = limit - len(self.head) - len(self.tail) - len(path)
        if room < 1:
            raise InvalidValueError(
                f"the list of classes alone fills the model's {limit} tokens; "
                "raise engine_args.max_model_len"
            )
        return [*self.head, *text[:room], *self.tail, *path]


def label_prompts(
    tokenizer: Tokenizer, labels: Sequence[str], options: PromptOptions, count: int
) -> list[LabelPrompt]:
    """The question in `count` cyclic orders of the classes; answers keep the classes' own order.

    Raises:
        ConfigError: If the tokenizer cannot tell the answers apart.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise InvalidValueError("a question needs at least two labels, each named once")
    step = max(1, len(labels) // count)
    return [
        _label_prompt(tokenizer, labels, options, shift)
        for shift in itertools.islice(range(0, len(labels), step), count)
    ]


def text_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of the input as a JSON string without its quotes; none of them is special."""
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    return _plain(tokenizer, quoted)


def letter_codes(tokenizer: Tokenizer, tail: str, count: int, *, lead: str) -> list[str]:
    """A, B, ... and AA, AB, ... as far as each is one token of its own; else codes of one length.

    Args:
        tokenizer: Of the model.
        tail: Words after the input, where the answer begins.
        count: How many codes.
        lead: What stands before an answer: a space after a plain prompt, else nothing.
    """
    stem = _in_context(tokenizer, tail, f"{lead}A")[:-1]
    chosen: list[str] = []
    for code in letter_marks():
        if len(chosen) == count:
            break
        tokens = _in_context(tokenizer, tail, lead + code)
        if tokens[:-1] == stem:
            chosen.append(code)
    if len(chosen) == count:
        return chosen
    return fixed_codes(count)


def letter_marks() -> Iterator[str]:
    """A, B, ... and AA, AB, ...: what may stand for a class, shortest first."""
    return itertools.chain(_codes(1), _codes(2))


def fixed_codes(count: int) -> list[str]:
    """Letter codes of one length: none begins another, however they fall into tokens."""
    length = next(length for length in itertools.count(1) if 26**length >= count)
    return list(itertools.islice(_codes(length), count))


def question(labels: Sequence[str], marks: Sequence[str], instruction: str) -> tuple[str, str]:
    """The user's words before and after the input; without marks the names are the answers."""
    names = [label.replace("_", " ") for label in labels]
    if marks:
        listing = "\n".join(f"{mark}. {name}" for mark, name in zip(marks, names, strict=True))
        kind = "letter"
    else:
        listing = "\n".join(f"- {name}" for name in names)
        kind = "name"
    return f'{instruction}\n\nOptions:\n{listing}\n\nText: "', f'"\n\n{_CLOSING.format(kind)}'


def wrapped(tokenizer: Tokenizer, before: str, after: str, *, thinking: bool) -> tuple[str, str]:
    """Puts the user's words into the model's chat template, if it has one."""
    if not tokenizer.chat_template:
        return before, f"{after}\nAnswer:"
    turn = [{"role": "user", "content": f"{before}{_HOLE}{after}"}]
    filled: str = tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    if filled.count(_HOLE) != 1:
        raise ConfigError("teacher.model: its chat template does not repeat the user's words once")
    start, _, end = filled.partition(_HOLE)
    return start, end


def _label_prompt(
    tokenizer: Tokenizer, labels: Sequence[str], options: PromptOptions, shift: int
) -> LabelPrompt:
    shown = [labels[(index + shift) % len(labels)] for index in range(len(labels))]
    lead = "" if tokenizer.chat_template else " "
    marks: list[str] = []
    if options.alias is Alias.LETTER:
        _, tail = _worded(tokenizer, shown, ["A"] * len(shown), options)
        marks = letter_codes(tokenizer, tail, len(shown), lead=lead)
    head, tail = _worded(tokenizer, shown, marks, options)
    spoken = dict(zip(shown, marks or [name.replace("_", " ") for name in shown], strict=True))
    answers = [_in_context(tokenizer, tail, lead + spoken[label]) for label in labels]
    try:
        trie = build_trie(answers, tokenizer.eos_token_id)
    except InvalidValueError as error:
        raise ConfigError(
            f"teacher.prompt.alias: the model's tokenizer cannot tell the answers apart: {error}"
        ) from error
    return LabelPrompt(
        tuple(beginning(tokenizer, head)),
        (*continued(tokenizer, tail), *trie.stem),
        trie,
        json.dumps([head, tail, spoken], ensure_ascii=False),
    )


def _worded(
    tokenizer: Tokenizer, shown: Sequence[str], marks: Sequence[str], options: PromptOptions
) -> tuple[str, str]:
    start, end = question(shown, marks, options.instruction)
    return wrapped(tokenizer, start, end, thinking=options.thinking)


def _codes(length: int) -> Iterator[str]:
    return map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def _in_context(tokenizer: Tokenizer, tail: str, mark: str) -> tuple[int, ...]:
    """Tokens of an answer where it really stands: after the question, whose own may not change."""
    asked = continued(tokenizer, tail)
    both = continued(tokenizer, tail + mark)
    if both[: len(asked)] != asked:
        raise ConfigError(
            f"teacher.prompt.alias: in this model's tokens '{mark}' melts into the question; "
            "choose the other alias"
        )
    return tuple(both[len(asked) :])


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of foreign words: what looks like a special token is spelled out."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def continued(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of our own words in mid-sequence; the template's special tokens count as such."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def beginning(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of the beginning; a template brings its own first token, a plain prompt needs one."""
    plain = not tokenizer.chat_template
    return list(tokenizer(text, add_special_tokens=plain)["input_ids"])
