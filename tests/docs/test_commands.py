"""Every command that a document shows is one that exists, with these options and files.

Read from the documents themselves: fenced shell blocks, and words in backticks that begin like a
command. A program that nobody has written a check for fails the page that shows it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, blocks
from unit.deploy.commands import IncompleteError, check, path_of

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
SHELLS = {"shell", "bash", "sh", ""}
BEFORE = {"{", "}", "sudo", "exec", "until", "while", "do", "then", "if", "!"}
ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
ENDS = re.compile(r"[|&;<>()]+")
"""Where the shell ends a command's own words."""

MAKE = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(
    re.findall(
        r"^([a-z]+) = \[",
        (ROOT / "pyproject.toml").read_text().partition("optional-dependencies]")[2],
        re.MULTILINE,
    )
)
UNITS = {p.name for p in (ROOT / "deploy" / "systemd").iterdir()}
# The machine's own: shown, and not ours to check. What they act on is.
FOREIGN = {
    *("[", "chown", "grep", "set", "."),
    *(
        "cat",
        "cd",
        "cp",
        "curl",
        "done",
        "echo",
        "export",
        "for",
        "git",
        "install",
        "kill",
        "kubectl",
    ),
    *("ls", "mkdir", "openssl", "psql", "ray", "redis-cli", "scp", "sqlite3", "ssh", "wait"),
    *(
        "systemd-sysusers",
        "printf",
        "seq",
        "systemd-analyze",
        "timedatectl",
        "helm",
        "docker",
        "apt-get",
        "sleep",
    ),
    *("docker-compose", "journalctl", "systemctl", "source", "test", "node", "mkdocs", "hadolint"),
    *(
        "promtool",
        "cyclonedx-py",
        "check-jsonschema",
        "chmod",
        "crontab",
        "tail",
        "date",
        "true",
        "trap",
        "umask",
    ),
}


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it; a mention in a sentence may leave arguments out."""

    page: str
    words: tuple[str, ...]
    mention: bool


def commands_of(text: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a piece of shell."""
    text = re.sub(r"<<-?\s*'?(\w+)'?\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = "#"
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not ENDS.fullmatch(word):
                words.append(word)
                continue
            if stripped := _stripped(words):
                yield stripped
            words = [">"] if "<" in word or ">" in word else []


def _stripped(words: list[str]) -> tuple[str, ...]:
    """Without what may stand before a program; nothing at all after a redirection."""
    rest = list(words)
    while rest and (rest[0] in BEFORE or ASSIGNMENT.fullmatch(rest[0])):
        rest = rest[1:]
    return () if rest[:1] == [">"] else tuple(rest)


def shown_on(page: Path) -> Iterator[Shown]:
    name, text = str(page.relative_to(ROOT)), page.read_text("utf-8")
    own = set(re.findall(r"^(\w+)\(\) {", text, re.MULTILINE))
    for language, code in FENCE.findall(text):
        if language in SHELLS and _is_shell(language, code):
            for words in commands_of(code):
                if words[0] not in own:
                    yield Shown(name, words, mention=False)
    for code in INLINE.findall(FENCE.sub("", text)):
        if re.match(r"(understudy|make|pip|python|sudo) [a-z'-]", code):
            yield from (Shown(name, words, mention=True) for words in commands_of(code))


def _is_shell(language: str, code: str) -> bool:
    """Fences without a language also hold trees, formulas and signatures."""
    return bool(language) or bool(
        re.match(r"(understudy|make|pip|python|sudo|\w+=\S+ python) ", code)
    )


SHOWN = [shown for page in PAGES for shown in shown_on(page)]


def trouble(shown: Shown) -> str:
    """Why somebody who types it would be disappointed; empty when nobody would."""
    program, *rest = shown.words
    if program == "understudy":
        return _ours(rest, mention=shown.mention)
    if program == "make":
        return "" if set(rest) <= MAKE else f"make has no word {rest}"
    if program in {"pip", "python"}:
        return _python(rest)
    if program in FOREIGN or "/" in program:
        return _files(rest)
    return f"nobody checks '{program}'"


def _ours(rest: list[str], *, mention: bool) -> str:
    try:
        check(rest)
    except IncompleteError as error:
        return "" if mention else str(error)
    except LookupError as error:
        return str(error)
    return _files(rest)


def _python(rest: list[str]) -> str:
    asked = re.findall(r"\[([\w,]+)\]", " ".join(rest))
    unknown = {extra for group in asked for extra in group.split(",")} - EXTRAS
    return f"there is no extra {unknown}" if unknown else _files(rest)


def _files(rest: list[str]) -> str:
    """What is named of this repository is in it."""
    for word in rest:
        path = word.rpartition("=")[2]
        own = path.startswith(("deploy/", "examples/", "bench/", "tests/", "docs/"))
        if own and not any(ROOT.glob(path.rstrip("/"))):
            return f"there is no {path}"
        unit = word.startswith("understudy-") and word.endswith((".service", ".timer"))
        if unit and word not in UNITS:
            return f"there is no unit {word}"
    return ""


@pytest.mark.parametrize("page", sorted({s.page for s in SHOWN}))
def test_what_a_page_tells_people_to_type_exists(page: str) -> None:
    """With these options, arguments, extras and files."""
    wrong = [
        f"{' '.join(s.words)}: {said}" for s in SHOWN if s.page == page if (said := trouble(s))
    ]

    assert wrong == []


def test_commands_are_found_in_blocks_in_sentences_and_behind_pipes() -> None:
    """A reader that finds nothing would be green for ever."""
    pages = {s.page for s in SHOWN if s.words[0] == "understudy"}
    found = list(commands_of("A=1 sudo understudy x \\\n -c y > z && make fmt # make none\n"))

    assert {"README.md", "README.zh.md", "docs/tutorial.md", "docs/operate/keys.md"} <= pages
    assert len(SHOWN) > 120
    assert found == [("understudy", "x", "-c", "y"), ("make", "fmt")]


@pytest.mark.parametrize(
    "line",
    [
        "understudy cloud upp",
        "understudy cloud up --colour blue",
        "understudy node enroll",
        "make coffee",
        "pip install 'understudy[clod]'",
        "python bench/none.py",
        "kubectl apply -k deploy/kustomize/overlays/none",
        "frobnicate --all",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    """The guard itself, seen failing."""
    (words,) = commands_of(line)

    assert trouble(Shown("planted", words, mention=False))


# Shown somewhere and run by a test of its own, because a page could not wait for it.
RUN_ELSEWHERE = {
    "demo": "tests/e2e/conftest.py",
    "distill approve": "tests/integration/test_night_command.py",
    "distill due": "tests/integration/test_night_command.py",
    "distill proposals": "tests/integration/test_night_command.py",
    "distill refresh": "tests/integration/test_night_command.py",
    "distill search": "tests/unit/distill_loop/test_night_search.py",
    "release pin": "tests/unit/cli/test_release_commands.py",
    "release promote": "tests/unit/cli/test_release_commands.py",
    "release verify": "tests/unit/cli/test_release_commands.py",
    "release withdraw": "tests/unit/cli/test_release_commands.py",
    "simulate": "tests/integration/test_simulate.py",
}


def test_every_command_of_ours_that_is_shown_is_run_somewhere() -> None:
    """By a runnable block, or by the test that is named here."""
    shown = {path_of(s.words[1:]) for s in SHOWN if s.words[0] == "understudy"}
    run = {
        path_of(words[1:])
        for page in PAGES
        for block in blocks(page)
        if block.language == "shell"
        for words in commands_of(block.code)
        if words[0] == "understudy"
    }
    for path, file in RUN_ELSEWHERE.items():
        assert f'"{path.split()[-1]}"' in (ROOT / file).read_text("utf-8"), file

    assert shown - run - set(RUN_ELSEWHERE) == set()
