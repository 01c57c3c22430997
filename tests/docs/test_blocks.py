"""The code in the documents runs, in the order in which a reader would type it.

A block is run when the line before it says `<!-- runnable -->`. A comment `<!-- runnable ... -->`
is run as shell and not shown: it only makes the test quicker or independent of this machine. All
blocks of a page are one script in an empty folder, so that what one has made the next one finds.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, Block, blocks

PORTS = ("7443", "7444", "7480", "8090", "8092")


RUNNABLE = [page for page in PAGES if blocks(page)]


def script(found: list[Block]) -> str:
    """One shell script; Python blocks are read from standard input."""
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, block in enumerate(found, start=1):
        lines.append(f"echo '== block {number}' >&2")
        if block.language == "python":
            lines += ["python - <<'END_OF_BLOCK'", block.code, "END_OF_BLOCK"]
        else:
            lines.append(block.code)
    return "\n".join(lines) + "\n"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def running(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs a script in a process group of its own; nothing of it outlives the test."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "REPOSITORY": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with subprocess.Popen(
        ["bash", "-m", "-c", text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    """A document that lies about its commands is worse than none."""
    text = script(blocks(page))
    for shown, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        text = text.replace(shown, str(free))

    with running(text, tmp_path) as process:
        try:
            output, _ = process.communicate(timeout=880)
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace")
            pytest.fail(f"the page did not end; it said: {said[-4000:]}")

    assert process.returncode == 0, output[-4000:]


def test_the_important_pages_have_something_that_runs() -> None:
    """A regular expression that finds nothing would be green for ever."""
    names = {page.name for page in RUNNABLE}

    assert {"tutorial.md", "concepts.md"} <= names
    assert len(blocks(ROOT / "docs" / "tutorial.md")) >= 12


# architecture.md shows signatures without bodies.
WITH_PYTHON = [
    page
    for page in PAGES
    if "```python" in page.read_text("utf-8") and page.name != "architecture.md"
]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.name)
def test_python_that_is_shown_at_least_compiles(page: Path) -> None:
    """Also where it is not run, because it needs a product around it."""
    for code in re.findall(r"```python\n(.*?)\n```", page.read_text("utf-8"), re.DOTALL):
        compile(code, str(page), "exec")


def test_a_failing_block_fails_the_page(tmp_path: Path) -> None:
    """The guard itself, seen failing."""
    text = script([Block("python", "raise SystemExit(3)"), Block("shell", "touch reached")])

    with running(text, tmp_path) as process:
        process.communicate(timeout=60)

    assert process.returncode == 3
    assert not (tmp_path / "reached").exists()
