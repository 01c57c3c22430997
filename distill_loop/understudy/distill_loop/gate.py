"""May the challenger replace the champion? A verdict with numbers, from values alone.

Rules: any check that fails keeps the champion. A check that cannot tell leaves the night undecided,
and that keeps the champion too. Only when every check passes is the challenger promoted. A first
student has nobody to be compared with: the comparing checks then say so and pass.

What is judged is the cascade: what a user gets. An answer can only break if the champion gave it by
itself. While the champion keeps nothing under its certificate, every answer is the teacher's, so
nothing is at stake: a challenger that is better on what was seen need not prove it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import statistics as stats
from understudy.distill_loop.recipe import GateRecipe
from understudy.types.contract import Certificate

Bools = NDArray[np.bool_]
Numbers = NDArray[np.float64]


class Outcome(StrEnum):
    """What one check found."""

    PASS = "pass"  # noqa: S105 - an outcome
    FAIL = "fail"
    UNDECIDED = "undecided"


class Ruling(StrEnum):
    """What happens to the challenger."""

    PROMOTE = "promote"
    KEEP = "keep"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Check:
    """One check with its numbers.

    Attributes:
        name: Name, stable across versions.
        outcome: What it found.
        value: What was measured; NaN when nothing could be.
        limit: What it was compared with; NaN when there is no limit.
        says: One sentence for a person.
    """

    name: str
    outcome: Outcome
    value: float
    limit: float
    says: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word."""

    ruling: Ruling
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that speak against a promotion; empty for a promotion."""
        return tuple(c.says for c in self.checks if c.outcome is not Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What one student did on the N rows that judge.

    Attributes:
        right: Where it said what teacher or person say, (N,).
        confidence: Calibrated confidence as the policy acts on it, -1 where it must escalate, (N,).
        certificate: What was proved about it.
        encoder_bytes: Size of its encoder file.
        latency_ms: Median time of one row.
        ood_auc: Area under the curve of foreign against own rows; NaN when unknown.
        pinned_broken: Pinned rows it answers wrongly, by text.
        gold_right: Where it is right on rows labelled by a person, (G,).
    """

    right: Bools
    confidence: Numbers
    certificate: Certificate
    encoder_bytes: int = 0
    latency_ms: float = math.nan
    ood_auc: float = math.nan
    pinned_broken: tuple[str, ...] = ()
    gold_right: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All the gate looks at.

    Attributes:
        new: The challenger.
        old: The champion; None when there is none.
        slices: Rows by slice name, masks of (N,): classes, nodes, lengths.
        agreed: Where the graph before and after compression name the same class, (M,).
        new_labels: Labels that came since the last night.
        same_classes: False if the challenger knows classes that the champion does not.
        alarms: What the data checks found suspicious, one sentence each.
        triggers: Phrases that pull the challenger's answers to one class, with the share they pull.
    """

    new: Sheet
    old: Sheet | None
    slices: Mapping[str, Bools] = field(default_factory=dict)
    agreed: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    new_labels: int = 0
    same_classes: bool = True
    alarms: tuple[str, ...] = ()
    triggers: Mapping[str, float] = field(default_factory=dict)


Judge = Callable[[Evidence, GateRecipe], Check]


def judge(evidence: Evidence, recipe: GateRecipe, further: Sequence[Judge] = ()) -> Verdict:
    """Runs every check and rules."""
    found = (check(evidence, recipe) for check in (*CHECKS, *further))
    checks = tuple(replace(c, value=float(c.value), limit=float(c.limit)) for c in found)
    return Verdict(rule(checks), checks)


def rule(checks: Iterable[Check]) -> Ruling:
    """One failure keeps the champion; one doubt leaves it undecided; else promote."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Ruling.KEEP
    return Ruling.UNDECIDED if Outcome.UNDECIDED in outcomes else Ruling.PROMOTE


def check_artefact(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The file is small enough to ship."""
    size = evidence.new.encoder_bytes
    return _at_most("size", size, recipe.max_bytes, f"the encoder has {size / 1e6:.1f} MB")


def check_latency(evidence: Evidence, recipe: GateRecipe) -> Check:
    """No slower than the champion, within measuring noise."""
    old = evidence.old
    if old is None or math.isnan(old.latency_ms) or math.isnan(evidence.new.latency_ms):
        return _passes("latency", evidence.new.latency_ms, "no champion to be compared with")
    ratio = evidence.new.latency_ms / max(old.latency_ms, 1e-6)
    return _at_most("latency", ratio, recipe.latency_ratio, f"it takes {ratio:.2f} times as long")


def check_enough(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Enough rows to judge on, enough news to bother."""
    rows = len(evidence.new.right)
    if evidence.old is None or not _at_stake(evidence):
        return _passes("rows", rows, "nothing is at stake: the champion keeps no answer")
    if rows < recipe.min_rows:
        return Check(
            "rows",
            Outcome.UNDECIDED,
            rows,
            recipe.min_rows,
            f"only {rows} rows can judge; {recipe.min_rows - rows} more are needed",
        )
    if evidence.new_labels < recipe.min_new_labels:
        return Check(
            "rows",
            Outcome.UNDECIDED,
            evidence.new_labels,
            recipe.min_new_labels,
            f"only {evidence.new_labels} new labels; {recipe.min_new_labels} are asked for",
        )
    return _passes("rows", rows, f"{rows} rows judge")


def check_data(evidence: Evidence, _: GateRecipe) -> Check:
    """Nothing in the night's data looks like an attack, a flood or a broken teacher."""
    if evidence.alarms:
        return Check("data", Outcome.FAIL, len(evidence.alarms), 0, "; ".join(evidence.alarms))
    return _passes("data", 0, "nothing suspicious in the data")


def check_triggers(evidence: Evidence, _: GateRecipe) -> Check:
    """No phrase of the new rows, put into ordinary texts, pulls their answers to one class."""
    limit = 0.2
    worst = max(evidence.triggers, key=lambda p: evidence.triggers[p], default="")
    pull = evidence.triggers.get(worst, 0.0)
    says = f"the phrase '{worst}' pulls {pull:.0%} of ordinary texts to one class"
    return _at_most("triggers", pull, limit, says if worst else "no phrase pulls answers")


def check_non_inferior(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The upper bound of the accuracy lost stays within the margin."""
    if evidence.old is None:
        return _passes("non_inferior", math.nan, "no champion to be compared with")
    if not len(evidence.new.right):
        return Check("non_inferior", Outcome.UNDECIDED, math.nan, recipe.margin, "no rows judge")
    lost, upper = stats.loss_bound(evidence.old.right, evidence.new.right, recipe.alpha)
    says = f"accuracy changes by {-lost:+.2%}; at worst {-upper:+.2%}"
    if upper <= recipe.margin or (lost <= 0.0 and not _at_stake(evidence)):
        return Check("non_inferior", Outcome.PASS, upper, recipe.margin, says)
    lower = -stats.loss_bound(evidence.new.right, evidence.old.right, recipe.alpha)[1]
    worse = Outcome.FAIL if lower > 0 or lost > recipe.margin else Outcome.UNDECIDED
    return Check("non_inferior", worse, upper, recipe.margin, says)


def check_gold(evidence: Evidence, recipe: GateRecipe) -> Check:
    """On rows that a person labelled, the challenger breaks no more than it repairs."""
    old = evidence.old
    if old is None or not len(evidence.new.gold_right):
        return _passes("gold", math.nan, "no rows labelled by a person judge")
    lost, upper = stats.loss_bound(old.gold_right, evidence.new.gold_right, recipe.alpha)
    significant = stats.mcnemar(evidence.new.gold_right, old.gold_right) < recipe.alpha
    outcome = Outcome.FAIL if lost > recipe.margin and significant else Outcome.PASS
    says = f"on rows labelled by a person accuracy changes by {-lost:+.2%}; at worst {-upper:+.2%}"
    return Check("gold", outcome, lost, recipe.margin, says)


def check_gain(evidence: Evidence, recipe: GateRecipe) -> Check:
    """There is a reason to ship: better, wider in what it keeps, or knowing new classes."""
    old = evidence.old
    if old is None or not recipe.require_gain:
        return _passes("gain", math.nan, "no gain is asked for")
    if not evidence.same_classes:
        return _passes("gain", math.nan, "it knows classes that the champion does not")
    p = stats.mcnemar(old.right, evidence.new.right)
    wider = keep_rate(evidence.new) - keep_rate(old)
    says = f"one-sided McNemar p = {p:.3f}; keeps {wider:+.1%} of the requests"
    good = p < recipe.alpha or stats.gain_is_sure(_utility(old), _utility(evidence.new))
    good = good or (not _at_stake(evidence) and (p < 0.5 or wider > 0.0))
    return Check("gain", Outcome.PASS if good else Outcome.UNDECIDED, p, recipe.alpha, says)


def check_flips(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Few answers that users got right from the champion become wrong ones from the challenger.

    A row that the challenger escalates instead is not broken: the teacher answers it.
    """
    old, new = evidence.old, evidence.new
    if old is None or not _at_stake(evidence):
        return _passes("negative_flips", math.nan, "the champion keeps no answer that could break")
    served, serves = _kept(old), _kept(new)
    broken = int((served & old.right & serves & ~new.right).sum())
    fixed = int((served & ~old.right & (new.right | ~serves)).sum())
    rows = len(new.right)
    upper = stats.upper_bound(broken, rows, recipe.alpha)
    says = f"{broken} of {rows} answers break and {fixed} are repaired; at most {upper:.2%} break"
    limit = recipe.max_negative_flips
    if upper <= limit or (broken <= fixed / 2 and broken <= limit * rows):
        return Check("negative_flips", Outcome.PASS, upper, limit, says)
    lower = stats.lower_bound(broken, rows, recipe.alpha)
    outcome = Outcome.FAIL if lower > limit else Outcome.UNDECIDED
    return Check("negative_flips", outcome, upper, limit, says)


def check_pinned(evidence: Evidence, _: GateRecipe) -> Check:
    """No row of the must-not-break list that the champion has right is broken."""
    before = set(evidence.old.pinned_broken) if evidence.old else set()
    broken = [text for text in evidence.new.pinned_broken if text not in before]
    says = f"{len(broken)} pinned rows break" + (f", first: '{broken[0]}'" if broken else "")
    return _at_most("pinned", len(broken), 0, says)


def check_coverage(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The contract's certificate is not lost, and no less is kept under it.

    A challenger that knows new classes may keep less as far as chance explains it: on a few hundred
    audited rows half a point is nothing, and the classes would have to be asked for ever.
    """
    new, old = evidence.new, evidence.old
    kept = keep_rate(new)
    says = f"keeps {kept:.1%} of the audited requests under its certificate"
    if old is None:
        return _passes("coverage", kept, says)
    noise = 0.0 if evidence.same_classes else stats.share_noise(kept, new.certificate.rows)
    limit = keep_rate(old) - recipe.coverage_slack - noise
    outcome = Outcome.PASS if kept >= limit else Outcome.FAIL
    return Check("coverage", outcome, kept, limit, f"{says}; the champion {keep_rate(old):.1%}")


def check_calibration(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Confidence means what it says."""
    error = stats.calibration_error(evidence.new.confidence, evidence.new.right)
    limit = recipe.max_ece
    if evidence.old is not None:
        old = stats.calibration_error(evidence.old.confidence, evidence.old.right)
        limit = max(limit, old + 0.01)
    if math.isnan(error):
        return _passes("calibration", error, "too few rows to tell")
    noise = stats.calibration_noise(evidence.new.confidence)
    return _at_most("calibration", error, limit + noise, f"its calibration error is {error:.3f}")


def check_slices(evidence: Evidence, recipe: GateRecipe) -> Check:
    """No slice loses more than allowed, at a level corrected for how many there are."""
    old, new = evidence.old, evidence.new
    if old is None:
        return _passes("slices", math.nan, "no champion to be compared with")
    losses = {
        name: stats.slice_loss(old.right[rows], new.right[rows])
        for name, rows in evidence.slices.items()
        if int(rows.sum()) >= recipe.slice_rows
    }
    lost = [
        name
        for name in stats.holm({n: p for n, (_, p) in losses.items()}, recipe.alpha)
        if losses[name][0] > recipe.slice_loss
    ]
    worst = max((loss for loss, _ in losses.values()), default=0.0)
    says = f"slices that lose: {', '.join(sorted(lost))}" if lost else f"{len(losses)} slices hold"
    outcome = Outcome.FAIL if lost else Outcome.PASS
    return Check("slices", outcome, worst, recipe.slice_loss, says)


def check_foreign(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Requests outside every class are told apart as well as before."""
    new, old = evidence.new.ood_auc, evidence.old.ood_auc if evidence.old else math.nan
    if math.isnan(new) or math.isnan(old):
        return _passes("foreign", new, "no foreign rows to tell apart")
    says = f"foreign rows are told apart with an area of {new:.3f}; the champion {old:.3f}"
    outcome = Outcome.PASS if new >= old - recipe.ood_slack else Outcome.FAIL
    return Check("foreign", outcome, new, old - recipe.ood_slack, says)


def check_compression(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The compressed graph names the classes that the one before compression named.

    It fails when even the upper bound of the agreement is too low: on a hundred rows of a weak
    student some near-ties flip, and what ships is judged after compression anyway.
    """
    rows = len(evidence.agreed)
    if not rows:
        return _passes("compression", math.nan, "nothing was compressed")
    share = float(evidence.agreed.mean())
    upper = stats.upper_bound(int(evidence.agreed.sum()), rows, recipe.alpha)
    outcome = Outcome.PASS if upper >= recipe.min_agreement else Outcome.FAIL
    says = f"compressed and plain agree on {share:.1%} of {rows} rows"
    return Check("compression", outcome, share, recipe.min_agreement, says)


CHECKS: tuple[Judge, ...] = (
    check_artefact,
    check_compression,
    check_latency,
    check_enough,
    check_data,
    check_triggers,
    check_non_inferior,
    check_gold,
    check_gain,
    check_flips,
    check_pinned,
    check_coverage,
    check_calibration,
    check_slices,
    check_foreign,
)


def keep_rate(sheet: Sheet) -> float:
    """Share of the audited rows kept under the certificate."""
    return sheet.certificate.keep_rate if sheet.certificate.certified else 0.0


def _utility(sheet: Sheet) -> Numbers:
    """What each row brings: 1 for a kept right answer, -10 for a kept wrong one, 0 otherwise."""
    return np.where(_kept(sheet), np.where(sheet.right, 1.0, -10.0), 0.0)


def _kept(sheet: Sheet) -> Bools:
    """The rows a student answers by itself."""
    return np.asarray(sheet.confidence >= sheet.certificate.threshold, np.bool_)


def _at_stake(evidence: Evidence) -> bool:
    """True if the champion answers anything by itself, so that something can get worse."""
    return evidence.old is not None and keep_rate(evidence.old) > 0.0


def _at_most(name: str, value: float, limit: float, says: str) -> Check:
    return Check(name, Outcome.PASS if value <= limit else Outcome.FAIL, value, limit, says)


def _passes(name: str, value: float, says: str) -> Check:
    return Check(name, Outcome.PASS, value, math.nan, says)
