"""The self-test: a new student answers its golden vectors in a process of its own.

A graph that crashes ONNX Runtime takes the child with it, not the product.

    python -m understudy.edge.updater_selftest <bundle directory> [<champion's directory>]
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from understudy.edge.bundle import read_bundle
from understudy.types.errors import BundleError, UnderstudyError

_ROUNDS = 20
_POLITENESS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestRules:
    """What a new student must pass.

    Attributes:
        timeout_s: The child is killed after so long.
        latency_ratio: Largest ratio of its best run to the champion's, measured side by side.
        latency_allowance_ms: A best run below this is never too slow.
        in_child: Test in a process of its own; only where processes cannot be started, in this one.
    """

    timeout_s: float = 120.0
    latency_ratio: float = 3.0
    latency_allowance_ms: float = 20.0
    in_child: bool = True


def self_test(bundle: Path, champion: Path | None, rules: SelfTestRules) -> None:
    """Tests the student in a folder.

    Args:
        bundle: The new student's folder.
        champion: The present student's folder, for the comparison of speed; None when there is
            none.
        rules: What it must pass.

    Raises:
        BundleError: If it fails, crashes, or does not end.
    """
    if rules.in_child and sys.executable:
        best, champions = _in_child(bundle, champion, rules.timeout_s)
    else:
        best, champions = _best_ms(bundle, champion)
    limit = max(rules.latency_allowance_ms, rules.latency_ratio * champions)
    if best > limit:
        raise BundleError(
            f"the student needs {best:.1f} ms a text in the self-test; {limit:.1f} is allowed"
        )


def _in_child(bundle: Path, champion: Path | None, timeout_s: float) -> tuple[float, float]:
    folders = [str(bundle)] if champion is None else [str(bundle), str(champion)]
    command = [sys.executable, "-m", "understudy.edge.updater_selftest", *folders]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, no shell
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"the self-test did not end within {timeout_s:g} s") from error
    if done.returncode < 0:
        raise BundleError(f"the self-test was ended by signal {-done.returncode}")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise BundleError(f"the self-test ended with code {done.returncode}") from error
    if answer["failure"]:
        raise BundleError(f"the self-test failed: {answer['failure']}")
    best, champions = answer["best_ms"]
    return float(best), float(champions)


def _best_ms(folder: Path, champion: Path | None) -> tuple[float, float]:
    """Checks the golden vectors, then times both students in turn.

    The best of many runs, taken side by side: on a busy machine any single run may be slow, and a
    good student must not be refused for its neighbours.

    Returns:
        Best time of one text, milliseconds: the new student's, and the champion's; 0 when there
        is no champion, or it is broken: its fault is not on trial.

    Raises:
        BundleError: If a golden vector differs, or there is none to check.
    """
    # ONNX Runtime is loaded by who runs a student, not by who asks for a test in a child.
    from understudy.edge.student import Student

    bundle = read_bundle(folder)
    if not bundle.golden:
        raise BundleError("the bundle has no golden vectors, so nothing proves that it works here")
    students = [Student.proved(bundle)]
    if champion is not None:
        with suppress(UnderstudyError):
            students.append(Student.load(read_bundle(champion)))
    best = [math.inf, 0.0 if len(students) == 1 else math.inf]
    for position in range(_ROUNDS):
        text = bundle.golden[position % len(bundle.golden)].text
        for number, student in enumerate(students):
            start = time.perf_counter()
            student.run([text])
            best[number] = min(best[number], 1000 * (time.perf_counter() - start))
    return best[0], best[1]


def main(folders: list[str]) -> int:
    """Tests the first folder and times the second; prints one line of JSON for the parent."""
    if hasattr(os, "nice"):
        os.nice(_POLITENESS)  # requests that are answered meanwhile go first
    answer: dict[str, object] = {"failure": "", "best_ms": []}
    try:
        champion = Path(folders[1]) if len(folders) > 1 else None
        answer["best_ms"] = _best_ms(Path(folders[0]), champion)
    except (UnderstudyError, OSError, MemoryError) as error:
        answer["failure"] = str(error) or type(error).__name__
    print(json.dumps(answer))  # noqa: T201 - the parent reads it
    return 1 if answer["failure"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
