"""The gate's checks, one function each: evidence and recipe in, one check out.

Each carries what was measured, what it is compared with, and the interval the truth lies in at the
gate's level. A check fails when the interval lies beyond the limit, passes when it lies within, and
is undecided between the two, where the recipe's rule has a middle.
"""

from __future__ import annotations

import math

import numpy as np

from understudy.distill_loop import statistics as stats
from understudy.distill_loop.evidence import (
    Bools,
    Check,
    Evidence,
    Judge,
    Numbers,
    Outcome,
    Sheet,
)
from understudy.distill_loop.recipe import GateRecipe

TRIGGER_PULL = 0.2
RANKING_SLACK = 0.002
"""Area under the risk curve that may be lost: on a joint risk of 2 % a tenth of it."""


def check_artefact(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The file is small enough to ship, and every number that came out of it is one."""
    size = evidence.new.encoder_bytes
    if not evidence.new.finite:
        return Check("size", Outcome.FAIL, size, recipe.max_bytes, "a logit is not a number")
    return _at_most("size", size, recipe.max_bytes, f"the encoder has {size / 1e6:.1f} MB")


def check_latency(evidence: Evidence, recipe: GateRecipe) -> Check:
    """No slower than the champion, within measuring noise."""
    old = evidence.old.latency_ms if evidence.old is not None else np.zeros(0)
    ratio, low, high = stats.ratio_of_medians(evidence.new.latency_ms, old, recipe.alpha)
    if math.isnan(ratio):
        return _passes("latency", math.nan, "no champion's encoder to be compared with")
    says = f"one text takes {ratio:.2f} times as long ({low:.2f} to {high:.2f})"
    limit = recipe.latency_ratio
    outcome = Outcome.PASS if ratio <= limit else Outcome.UNDECIDED
    return Check("latency", Outcome.FAIL if low > limit else outcome, ratio, limit, says, low, high)


def check_enough(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Enough rows to judge on, enough news to bother."""
    rows = len(evidence.new.right)
    if evidence.old is None or not _at_stake(evidence):
        return _passes("rows", rows, "nothing is at stake: the champion keeps no answer")
    if rows < recipe.min_rows:
        says = f"only {rows} rows can judge; {recipe.min_rows - rows} more are needed"
        return Check("rows", Outcome.UNDECIDED, rows, recipe.min_rows, says)
    if evidence.new_labels < recipe.min_new_labels:
        says = f"only {evidence.new_labels} new labels; {recipe.min_new_labels} are asked for"
        return Check("rows", Outcome.UNDECIDED, evidence.new_labels, recipe.min_new_labels, says)
    return _passes("rows", rows, f"{rows} rows judge")


def check_data(evidence: Evidence, _: GateRecipe) -> Check:
    """Nothing in the night's data looks like an attack, a flood or a broken teacher."""
    if evidence.alarms:
        return Check("data", Outcome.FAIL, len(evidence.alarms), 0, "; ".join(evidence.alarms))
    return _passes("data", 0, "nothing suspicious in the data")


def check_triggers(evidence: Evidence, _: GateRecipe) -> Check:
    """No phrase of the new rows, put into ordinary texts, pulls their answers to one class."""
    worst = max(evidence.triggers, key=lambda p: evidence.triggers[p], default="")
    pull = evidence.triggers.get(worst, 0.0)
    says = f"the phrase '{worst}' pulls {pull:.0%} of ordinary texts to one class"
    return _at_most("triggers", pull, TRIGGER_PULL, says if worst else "no phrase pulls answers")


def check_non_inferior(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The upper bound of the accuracy lost stays within the margin."""
    if evidence.old is None:
        return _passes("non_inferior", math.nan, "no champion to be compared with")
    if not len(evidence.new.right):
        return Check("non_inferior", Outcome.UNDECIDED, math.nan, recipe.margin, "no rows judge")
    lost, low, high = stats.loss_interval(evidence.old.right, evidence.new.right, recipe.alpha)
    says = f"accuracy changes by {-lost:+.2%}; at worst {-high:+.2%}, at best {-low:+.2%}"
    if high <= recipe.margin or (lost <= 0.0 and not _at_stake(evidence)):
        outcome = Outcome.PASS
    else:
        # Under trust a loss must be certain: on a handful of rows one of them is a tenth.
        lost_too_much = lost > recipe.margin and not recipe.trust
        outcome = Outcome.FAIL if low > 0 or lost_too_much else Outcome.UNDECIDED
    return Check("non_inferior", outcome, lost, recipe.margin, says, low, high)


def check_gold(evidence: Evidence, recipe: GateRecipe) -> Check:
    """On rows that a person labelled, the challenger breaks no more than it repairs."""
    old = evidence.old
    if old is None or not len(evidence.new.gold_right):
        return _passes("gold", math.nan, "no rows labelled by a person judge")
    lost, low, high = stats.loss_interval(old.gold_right, evidence.new.gold_right, recipe.alpha)
    significant = stats.mcnemar(evidence.new.gold_right, old.gold_right) < recipe.alpha
    outcome = Outcome.FAIL if lost > recipe.margin and significant else Outcome.PASS
    says = f"on rows labelled by a person accuracy changes by {-lost:+.2%}; at worst {-high:+.2%}"
    return Check("gold", outcome, lost, recipe.margin, says, low, high)


def check_gain(evidence: Evidence, recipe: GateRecipe) -> Check:
    """There is a reason to ship: better, wider in what it keeps, or knowing new classes."""
    old = evidence.old
    if old is None or not recipe.require_gain:
        return _passes("gain", math.nan, "no gain is asked for")
    if not evidence.same_classes:
        return _passes("gain", math.nan, "it knows classes that the champion does not")
    p = stats.mcnemar(old.right, evidence.new.right)
    wider = keep_rate(evidence.new) - keep_rate(old)
    gain, low, high = stats.mean_bounds(_utility(evidence.new) - _utility(old), recipe.alpha / 2)
    says = (
        f"exact one-sided McNemar p = {p:.3f}; keeps {wider:+.1%} of the requests; "
        f"brings {gain:+.3f} a request ({low:+.3f} to {high:+.3f})"
    )
    good = p < recipe.alpha or low > 0.0
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
    low, high = stats.share_bounds(broken, rows, recipe.alpha)
    says = f"{broken} of {rows} answers break and {fixed} are repaired; at most {high:.2%} break"
    limit, share = recipe.max_negative_flips, broken / max(rows, 1)
    outcome = Outcome.FAIL if low > limit else Outcome.UNDECIDED
    if high <= limit or (broken <= fixed / 2 and share <= limit):
        outcome = Outcome.PASS
    return Check("negative_flips", outcome, share, limit, says, low, high)


def check_pinned(evidence: Evidence, _: GateRecipe) -> Check:
    """No row of the must-not-break list that the champion has right is broken."""
    before = set(evidence.old.pinned_broken) if evidence.old else set()
    broken = [text for text in evidence.new.pinned_broken if text not in before]
    says = f"{len(broken)} pinned rows break" + (f", first: '{broken[0]}'" if broken else "")
    return _at_most("pinned", len(broken), 0, says)


def check_coverage(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The contract's certificate is not lost, and no less is kept under it.

    A challenger that knows new classes may keep less as far as chance explains it: on a few hundred
    audited rows half a point is nothing, and the classes would have to be asked for ever. Where
    chance explains what is lost otherwise, it is undecided.
    """
    new, old = evidence.new, evidence.old
    kept, rows = keep_rate(new), new.certificate.rows
    low, high = stats.share_bounds(round(kept * rows), rows, recipe.alpha)
    says = f"keeps {kept:.1%} of the audited requests under its certificate"
    if old is None:
        return Check("coverage", Outcome.PASS, kept, math.nan, says, low, high)
    noise = 0.0 if evidence.same_classes else stats.share_noise(kept, rows)
    limit = max(keep_rate(old) - recipe.coverage_slack - noise, 0.0)
    says = f"{says}; the champion {keep_rate(old):.1%}"
    moved = _kept(new).astype(np.float64) - _kept(old)
    gap, _, up = stats.mean_bounds(moved, recipe.alpha)
    outcome = Outcome.PASS if kept >= limit else Outcome.UNDECIDED
    if kept + (up - gap) < limit:
        outcome = Outcome.FAIL
    return Check("coverage", outcome, kept, limit, says, low, high)


def check_ranking(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Doubt still goes to the rows that are wrong: the curve of risk against escalation holds.

    Accuracy may rise while this gets worse, and then more must be escalated for the same risk.
    """
    old, new = evidence.old, evidence.new
    if old is None or not len(new.right):
        return _passes("ranking", math.nan, "no champion to be compared with")
    costs = stats.mistakes_ahead(new.confidence, new.right)
    before = stats.mistakes_ahead(old.confidence, old.right)
    lost, low, high = stats.mean_bounds(costs - before, recipe.alpha)
    says = (
        f"the area under risk against escalation is {costs.mean():.4f}, "
        f"the champion's {before.mean():.4f}"
    )
    outcome = Outcome.FAIL if low > RANKING_SLACK else Outcome.PASS
    return Check("ranking", outcome, lost, RANKING_SLACK, says, low, high)


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
    says = f"its calibration error is {error:.3f}, of which chance alone makes {noise:.3f}"
    outcome = Outcome.PASS if error <= limit + noise else Outcome.FAIL
    low, high = max(error - 2 * noise, 0.0), error
    return Check("calibration", outcome, error, limit + noise, says, low, high)


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
    worst = max(losses, key=lambda name: losses[name][0], default="")
    loss, p = losses.get(worst, (0.0, 1.0))
    says = f"slices that lose: {', '.join(sorted(lost))}" if lost else f"{len(losses)} slices hold"
    says += f"; the worst, {worst}, loses {loss:.1%} (p = {p:.3f})" if worst else ""
    outcome = Outcome.FAIL if lost else Outcome.PASS
    return Check("slices", outcome, loss, recipe.slice_loss, says)


def check_foreign(evidence: Evidence, recipe: GateRecipe) -> Check:
    """Requests outside every class are told apart as well as before."""
    new, old = evidence.new, evidence.old
    area = stats.area_under_curve(new.foreign, new.confidence)
    before = stats.area_under_curve(old.foreign, old.confidence) if old else math.nan
    if math.isnan(area) or math.isnan(before):
        return _passes("foreign", area, "no foreign rows to tell apart")
    error = stats.area_noise(area, len(new.foreign), len(new.confidence))
    kept = stats.foreign_kept(new.foreign, new.confidence)
    says = (
        f"foreign rows are told apart with an area of {area:.3f}; the champion {before:.3f}; "
        f"{kept:.0%} of them pass where 95 % of the own rows do"
    )
    outcome = Outcome.PASS if area >= before - recipe.ood_slack else Outcome.FAIL
    low, high = max(area - 1.645 * error, 0.0), min(area + 1.645 * error, 1.0)
    return Check("foreign", outcome, area, before - recipe.ood_slack, says, low, high)


def check_compression(evidence: Evidence, recipe: GateRecipe) -> Check:
    """The compressed graph names the classes that the one before compression named.

    It fails when even the upper bound of the agreement is too low: on a hundred rows of a weak
    student some near-ties flip, and what ships is judged after compression anyway.
    """
    rows = len(evidence.agreed)
    if not rows:
        return _passes("compression", math.nan, "nothing was compressed")
    share = float(evidence.agreed.mean())
    low, high = stats.share_bounds(int(evidence.agreed.sum()), rows, recipe.alpha)
    outcome = Outcome.PASS if high >= recipe.min_agreement else Outcome.FAIL
    says = f"compressed and plain agree on {share:.1%} of {rows} rows"
    return Check("compression", outcome, share, recipe.min_agreement, says, low, high)


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
    check_ranking,
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
