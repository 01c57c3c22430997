"""The self-test: a new student answers its golden vectors in a process of its own.

A graph that crashes ONNX Runtime takes the child with it, not the product.

    python -m understudy.edge.updater_selftest <bundle directory> [<champion's directory>]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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
        latency_ratio: Largest ratio of its median run to the champion's, measured side by side.
        latency_allowance_ms: A median below this is never too slow.
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
        medians = _in_child(bundle, champion, rules.timeout_s)
    else:
        medians = [_median_ms(bundle), _champion_ms(champion)]
    limit = max(rules.latency_allowance_ms, rules.latency_ratio * medians[1])
    if medians[0] > limit:
        raise BundleError(
            f"the student needs {medians[0]:.1f} ms a text in the self-test; {limit:.1f} is allowed"
        )


def _in_child(bundle: Path, champion: Path | None, timeout_s: float) -> list[float]:
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
    return [float(value) for value in answer["medians_ms"]]


def _median_ms(folder: Path) -> float:
    """Checks the golden vectors, then times them; the median of one text, milliseconds.

    Raises:
        BundleError: If a golden vector differs, or there is none to check.
    """
    # ONNX Runtime is loaded by who runs a student, not by who asks for a test in a child.
    from understudy.edge.student import Student

    bundle = read_bundle(folder)
    if not bundle.golden:
        raise BundleError("the bundle has no golden vectors, so nothing proves that it works here")
    student = Student.load(bundle)
    student.check_golden()
    times = []
    for position in range(_ROUNDS):
        text = bundle.golden[position % len(bundle.golden)].text
        start = time.perf_counter()
        student.run([text])
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def _champion_ms(folder: Path | None) -> float:
    """The champion's median; 0 when there is none, or it is broken: its fault is not on trial."""
    try:
        return _median_ms(folder) if folder is not None else 0.0
    except UnderstudyError:
        return 0.0


def main(folders: list[str]) -> int:
    """Tests the first folder and times the second; prints one line of JSON for the parent."""
    if hasattr(os, "nice"):
        os.nice(_POLITENESS)  # requests that are answered meanwhile go first
    answer: dict[str, object] = {"failure": "", "medians_ms": []}
    try:
        champion = Path(folders[1]) if len(folders) > 1 else None
        answer["medians_ms"] = [_median_ms(Path(folders[0])), _champion_ms(champion)]
    except (UnderstudyError, OSError, MemoryError) as error:
        answer["failure"] = str(error) or type(error).__name__
    print(json.dumps(answer))  # noqa: T201 - the parent reads it
    return 1 if answer["failure"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
