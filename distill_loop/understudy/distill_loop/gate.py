"""May the challenger replace the champion? A verdict with numbers, from values alone.

Rules: any check that fails keeps the champion. A check that cannot tell leaves the night undecided,
and that keeps the champion too. Only when every check passes is the challenger promoted. A first
student has nobody to be compared with: the comparing checks then say so and pass.

What is judged is the cascade: what a user gets. An answer can only break if the champion gave it by
itself. While the champion keeps nothing under its certificate, every answer is the teacher's, so
nothing is at stake: a challenger that is better on what was seen need not prove it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from understudy.distill_loop.checks import CHECKS
from understudy.distill_loop.evidence import (
    Check,
    Evidence,
    Judge,
    Outcome,
    Ruling,
    Sheet,
    Verdict,
)
from understudy.distill_loop.recipe import GateRecipe

__all__ = [
    "CHECKS",
    "Check",
    "Evidence",
    "Judge",
    "Outcome",
    "Ruling",
    "Sheet",
    "Verdict",
    "judge",
    "rule",
]


def judge(evidence: Evidence, recipe: GateRecipe, further: Sequence[Judge] = ()) -> Verdict:
    """Runs every check and rules."""
    found = (check(evidence, recipe) for check in (*CHECKS, *further))
    checks = tuple(_believed(_plain(c)) if recipe.trust else _plain(c) for c in found)
    return Verdict(rule(checks), checks)


def rule(checks: Iterable[Check]) -> Ruling:
    """One failure keeps the champion; one doubt leaves it undecided; else promote."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Ruling.KEEP
    return Ruling.UNDECIDED if Outcome.UNDECIDED in outcomes else Ruling.PROMOTE


def _believed(check: Check) -> Check:
    """A recipe that trusts its learning takes a doubt for a pass, and says so."""
    if check.outcome is not Outcome.UNDECIDED:
        return check
    return replace(check, outcome=Outcome.PASS, says=f"{check.says} (in doubt, trusted)")


def _plain(check: Check) -> Check:
    """The check with Python's own numbers, so that it can be written down."""
    return replace(
        check,
        value=float(check.value),
        limit=float(check.limit),
        low=float(check.low),
        high=float(check.high),
    )
