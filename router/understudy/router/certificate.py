"""From audited rows to a certificate, or to how many rows are missing.

Joint risk, the default: R(t) = P(confidence >= t and student differs from teacher). It falls as t
rises, so the lowest t whose exact (Clopper-Pearson) upper bound keeps the contract needs no
correction for having looked at every t. The rows must be coin-first audits (`audit.coin`): an
unweighted sample of all traffic, none of it used for training.

A row whose label never came counts as an error: were it left out, what gets lost would decide the
risk. A row on which the teacher could not be trusted is set aside and counted apart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.router.bounds import allowed_errors, clean_rows, risk_upper_bound, rows_needed, tail
from understudy.types.contract import (
    MOST_SLICES,
    Certificate,
    Contract,
    RiskKind,
    SliceCertificate,
)
from understudy.types.decision import NEVER_KEEP
from understudy.types.errors import DataError, InvalidValueError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
ALWAYS_ESCALATES = -1.0
"""The confidence of a row the policy never keeps: invalid score, or foreign input."""
GRID_POINTS = 101
"""Most thresholds a selective certificate walks over."""
SAFE_START = 3
"""A selective walk starts where this many times the fewest clean rows are kept."""


@dataclass(frozen=True, slots=True)
class Found:
    """The lowest threshold that keeps a contract on some rows.

    Attributes:
        threshold: The threshold, `NEVER_KEEP` when there is none.
        kept: Rows at or above it.
        errors: Of these, rows on which student and teacher differ.
        bound: Upper bound of the risk at the threshold; 0 when nothing is kept.
    """

    threshold: float = NEVER_KEEP
    kept: int = 0
    errors: int = 0
    bound: float = 0.0


@dataclass(frozen=True, slots=True)
class Steps:
    """What each threshold would keep, strictest first; arrays of shape (T,).

    Attributes:
        threshold: The distinct confidences, falling.
        kept: Rows at or above each.
        errors: Of these, errors.
        rows: All rows.
    """

    threshold: Floats
    kept: NDArray[np.int64]
    errors: NDArray[np.int64]
    rows: int

    def at(self, index: int, bound: float) -> Found:
        """Names one of the thresholds."""
        kept, errors = int(self.kept[index]), int(self.errors[index])
        return Found(float(self.threshold[index]), kept, errors, bound)


@dataclass(frozen=True, slots=True)
class Audits:
    """Audited rows, checked.

    Attributes:
        confidence: In [0, 1], or `ALWAYS_ESCALATES`; shape (N,).
        error: True where student and teacher differ or the label never came; shape (N,).
        slices: Slice name of each row, empty for none; N of them.
        new: True where the teacher's label is none of the student's; shape (N,). None if not known.
        unreliable: Rows that were set aside.
    """

    confidence: Floats
    error: Bools
    slices: tuple[str, ...]
    new: Bools | None = None
    unreliable: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.confidence)

    def only(self, name: str) -> Audits:
        """The rows of one slice."""
        here = np.array([s == name for s in self.slices], dtype=bool)
        return Audits(self.confidence[here], self.error[here], (name,) * int(here.sum()))

    def rows_by_slice(self) -> Counter[str]:
        """Rows of each named slice."""
        return Counter(name for name in self.slices if name)

    def steps(self) -> Steps:
        """What each threshold would keep. Equal confidences are kept or escalated together."""
        may_be_kept = self.confidence > ALWAYS_ESCALATES
        values, counts, errors = _tally(self.confidence[may_be_kept], self.error[may_be_kept])
        return Steps(values, np.cumsum(counts), np.cumsum(errors), self.rows)


def _tally(confidence: Floats, error: Bools) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Counts rows and errors by distinct confidence, falling."""
    values, place = np.unique(-confidence, return_inverse=True)
    size = len(values)
    counts = np.bincount(place, minlength=size)
    return -values, counts, np.bincount(place[error], minlength=size)


def certify(  # noqa: PLR0913 - each is a column of the rows or a choice, by keyword
    confidence: ArrayLike,
    agree: ArrayLike,
    contract: Contract,
    *,
    slices: Iterable[str] | None = None,
    reliable: ArrayLike | None = None,
    trained: ArrayLike | None = None,
    new_label: ArrayLike | None = None,
    grid: ArrayLike | None = None,
    looks: int = 1,
) -> Certificate:
    """Finds the lowest threshold that keeps the contract, or says how many rows are missing.

    Args:
        confidence: Confidence of the audited rows, shape (N,), in [0, 1]; `ALWAYS_ESCALATES` for
            rows the policy never keeps (`Scores.effective` gives both).
        agree: 1 where student and teacher agree, 0 where not, NaN where the label never came.
        contract: What is to be proved.
        slices: Slice name of each row, empty for none. Each slice gets a threshold of its own, at
            least the whole's, all under one family-wise correction. The `MOST_SLICES` with most
            rows are looked at; those with too few rows to prove anything cost the others nothing.
        reliable: False where the teacher could not be trusted; such rows are set aside.
        trained: True where the student or its calibration learned from the row; such rows are left
            out, for a student agrees with what it was shown.
        new_label: True where the teacher's label is none of the student's. With it the certificate
            says how many such labels are ordinary, and the live watch hears of more.
        grid: Thresholds a selective certificate walks over, fixed from other, unlabelled rows;
            quantiles of these rows when omitted.
        looks: How many times these rows are used to certify; the doubt is shared out over them.

    Raises:
        DataError: If a confidence or an agreement is out of range.
        InvalidValueError: If lengths differ or `looks` is not positive.
    """
    audits = _audits(confidence, agree, slices, reliable, trained, new_label)
    names, speaking = _slices_to_certify(audits, contract, looks)
    delta = shared_delta(1.0 - contract.confidence, looks, speaking)
    points = None if grid is None else np.asarray(grid, dtype=np.float64)
    found = find_threshold(audits.steps(), contract, delta, points)
    parts = tuple(_certify_slice(n, audits.only(n), contract, delta, found) for n in names)
    return Certificate(
        contract=contract,
        certified=found.threshold != NEVER_KEEP,
        threshold=found.threshold,
        risk_upper_bound=found.bound,
        keep_rate=found.kept / max(1, audits.rows),
        rows=audits.rows,
        errors=found.errors,
        rows_missing=rows_missing(audits.steps(), contract, delta, found),
        slices=parts,
        unreliable_rows=audits.unreliable,
        new_label_bound=_new_label_bound(audits, found.threshold, 1.0 - contract.confidence),
    )


def _slices_to_certify(audits: Audits, contract: Contract, looks: int) -> tuple[list[str], int]:
    """Names the slices to look at, and says how many of them could prove something.

    Both follow from how many rows a slice has, and never from what is in them.
    """
    rows = audits.rows_by_slice()
    names = sorted(rows, key=lambda name: (-rows[name], name))[:MOST_SLICES]
    fewest = clean_rows(
        contract.max_quality_loss, shared_delta(1.0 - contract.confidence, looks, 1)
    )
    return sorted(names), sum(rows[name] >= fewest for name in names)


def _new_label_bound(audits: Audits, threshold: float, delta: float) -> float:
    """How common labels that the student cannot say are under the threshold; 1 if not known.

    For the joint risk the threshold is found by going down the confidences until one error too
    many, so the rows further down are a fresh sample of what lies there; the value at which the
    search stopped is not, and is left out.
    """
    under = audits.confidence < threshold
    if audits.new is None or threshold == NEVER_KEEP or not under.any():
        return 1.0
    stopped = audits.confidence[under].max()
    under &= (audits.confidence < stopped) | (stopped == ALWAYS_ESCALATES)
    return risk_upper_bound(int(audits.new[under].sum()), int(under.sum()), delta)


def shared_delta(delta: float, looks: int, slices: int) -> float:
    """The doubt each promise may spend, so that all of them together keep `delta` (Bonferroni)."""
    if looks < 1:
        raise InvalidValueError(f"looks must be positive, not {looks}")
    return delta / (looks * (slices + 1))


def fresh_rows(trained: ArrayLike | None, rows: int) -> Bools:
    """Says which rows may certify: those nothing learned from."""
    if trained is None:
        return np.ones(rows, dtype=bool)
    fresh: Bools = ~np.asarray(trained, dtype=bool)
    return fresh


def errors_of(agree: Floats) -> Bools:
    """Says which rows are errors. NaN differs from 1: a label that never came is one."""
    wrong: Bools = agree != 1.0
    return wrong


def find_threshold(
    steps: Steps, contract: Contract, delta: float, grid: Floats | None = None
) -> Found:
    """Finds the lowest threshold whose bound keeps the contract."""
    match contract.kind:
        case RiskKind.JOINT:
            return _joint(steps, contract.max_quality_loss, delta)
        case RiskKind.SELECTIVE:
            return _selective(steps, contract.max_quality_loss, delta, grid)
        case RiskKind.AVERAGE:
            return _average(steps, contract.max_quality_loss)
    assert_never(contract.kind)


def _joint(steps: Steps, rate: float, delta: float) -> Found:
    most = allowed_errors(steps.rows, rate, delta)
    last = int(np.searchsorted(steps.errors, most, side="right")) - 1
    if last < 0:
        return Found()
    return steps.at(last, risk_upper_bound(int(steps.errors[last]), steps.rows, delta))


def _average(steps: Steps, rate: float) -> Found:
    """Conformal risk control: (errors + 1) / (rows + 1) bounds the risk in expectation only."""
    most = math.floor(rate * (steps.rows + 1) - 1.0 + 1e-9)
    last = int(np.searchsorted(steps.errors, most, side="right")) - 1
    if last < 0:
        return Found()
    return steps.at(last, (int(steps.errors[last]) + 1) / (steps.rows + 1))


def _selective(steps: Steps, rate: float, delta: float, grid: Floats | None) -> Found:
    """Fixed sequence, strict to loose, over a grid that no label had a part in.

    It starts where enough rows are kept to pass with some errors among them: a start at a handful
    of rows fails whatever the student is worth, and ends the walk.
    """
    found = Found()
    for threshold, index in _walk(steps, SAFE_START * clean_rows(rate, delta), grid):
        kept, errors = int(steps.kept[index]), int(steps.errors[index])
        if tail(errors, kept, rate) > delta:
            break
        found = Found(threshold, kept, errors, risk_upper_bound(errors, kept, delta))
    return found


def _walk(steps: Steps, first_kept: int, grid: Floats | None) -> Iterator[tuple[float, int]]:
    """Yields thresholds to try, strict to loose, each with the index of the last row it keeps."""
    if not len(steps.kept):
        return
    if grid is None:
        ranks = np.linspace(first_kept, max(first_kept, steps.kept[-1]), GRID_POINTS)
        chosen = np.unique(np.searchsorted(steps.kept, np.ceil(ranks)))
        points = [(float(steps.threshold[i]), int(i)) for i in chosen if i < len(steps.kept)]
    else:
        strict_first = np.unique(grid)[::-1]
        chosen = np.searchsorted(-steps.threshold, -strict_first, side="right") - 1
        points = list(zip(strict_first.tolist(), chosen.tolist(), strict=True))
    yield from ((t, i) for t, i in points if i >= 0 and steps.kept[i] >= first_kept)


def _certify_slice(
    name: str, audits: Audits, contract: Contract, delta: float, whole: Found
) -> SliceCertificate:
    """A slice is at least as strict as the whole, so that the whole's bound still holds."""
    few = audits.rows < clean_rows(contract.max_quality_loss, delta)
    selective = contract.kind is RiskKind.SELECTIVE
    if few:
        # A selective risk does not fall with the threshold: nothing could be inherited.
        threshold = NEVER_KEEP if selective else whole.threshold
    else:
        own = find_threshold(audits.steps(), contract, delta)
        threshold = own.threshold if selective else max(own.threshold, whole.threshold)
    return SliceCertificate(name=name, threshold=threshold, rows=audits.rows, inherited=few)


def rows_missing(steps: Steps, contract: Contract, delta: float, found: Found) -> int:
    """Says how many further audited rows are needed, as far as can be told.

    Returns:
        0 when certified, and when no number of rows helps because the student errs too often even
        where it is surest; else the fewest that suffice if errors keep coming as they did there.
    """
    if found.threshold != NEVER_KEEP:
        return 0
    rate, selective = contract.max_quality_loss, contract.kind is RiskKind.SELECTIVE
    fewest = clean_rows(rate, delta)
    if contract.kind is RiskKind.AVERAGE:
        fewest = math.ceil(1.0 / rate) - 1
    first = SAFE_START * fewest if selective else 1
    if not len(steps.kept):
        return max(0, max(first, fewest) - steps.rows)
    start = min(int(np.searchsorted(steps.kept, first)), len(steps.kept) - 1)
    kept, errors = int(steps.kept[start]), int(steps.errors[start])
    base = kept if selective else steps.rows
    needed = rows_needed(rate, delta, errors / base) if errors else fewest
    if needed is None:
        return 0
    return max(1, math.ceil(max(needed, first) * steps.rows / base) - steps.rows)


def digest_rows(event_ids: Iterable[str]) -> str:
    """Names a set of audited rows: sha256 over their event ids, sorted, one a line."""
    return hashlib.sha256("\n".join(sorted(event_ids)).encode()).hexdigest()


def _audits(
    confidence: ArrayLike,
    agree: ArrayLike,
    slices: Iterable[str] | None,
    reliable: ArrayLike | None,
    trained: ArrayLike | None,
    new_label: ArrayLike | None,
) -> Audits:
    sure, same = _checked(confidence, agree)
    names = ("",) * len(sure) if slices is None else tuple(slices)
    given = [np.shape(column) for column in (reliable, trained, new_label) if column is not None]
    if len(names) != len(sure) or any(shape != sure.shape for shape in given):
        raise InvalidValueError("slices, reliable, trained and new_label need one entry a row")
    trusted = np.ones(len(sure), bool) if reliable is None else np.asarray(reliable, dtype=bool)
    new = None if new_label is None else np.asarray(new_label, dtype=bool)
    fresh = fresh_rows(trained, len(sure))
    used = trusted & fresh
    return Audits(
        sure[used],
        errors_of(same[used]),
        tuple(name for name, use in zip(names, used, strict=True) if use),
        None if new is None else new[used],
        int((fresh & ~trusted).sum()),
    )


def _checked(confidence: ArrayLike, agree: ArrayLike) -> tuple[Floats, Floats]:
    sure = np.asarray(confidence, dtype=np.float64).reshape(-1)
    same = np.asarray(agree, dtype=np.float64).reshape(-1)
    if sure.shape != same.shape:
        raise InvalidValueError(f"{len(sure)} confidences, but {len(same)} agreements")
    inside = ((sure >= 0.0) & (sure <= 1.0)) | (sure == ALWAYS_ESCALATES)
    known = (same == 0.0) | (same == 1.0) | np.isnan(same)
    wrong = np.flatnonzero(~(inside & known))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"row {row + 1}: confidence must lie in [0, 1] and agree must be 0 or 1, "
            f"not {sure[row]} and {same[row]}"
        )
    return sure, same
