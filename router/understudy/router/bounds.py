"""Exact binomial bounds, and how many rows they need."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special

from understudy.types.errors import InvalidValueError

MOST_ROWS = 10_000_000
"""Where a search for a number of rows gives up."""


def risk_upper_bound(errors: int, rows: int, delta: float) -> float:
    """The exact (Clopper-Pearson) upper bound: the true rate is higher with probability <= delta.

    Args:
        errors: Errors seen.
        rows: Rows looked at; none means that nothing is known, and the bound is 1.
        delta: Probability with which the bound may fail, in (0, 1).
    """
    if not 0 <= errors <= rows:
        raise InvalidValueError(f"errors must lie in [0, {rows}], not {errors}")
    if errors == rows:
        return 1.0
    return float(special.betaincinv(errors + 1, rows - errors, 1.0 - delta))


def risk_lower_bound(errors: int, rows: int, delta: float) -> float:
    """The exact lower bound: the true rate is lower with probability at most delta."""
    return 1.0 - risk_upper_bound(rows - errors, rows, delta)


def tail(errors: int, rows: int, rate: float) -> float:
    """P(at most `errors` errors in `rows` rows) when each errs with probability `rate`."""
    if errors < 0:
        return 0.0
    if errors >= rows:
        return 1.0
    return float(special.bdtr(errors, rows, rate))


def allowed_errors(rows: int, rate: float, delta: float) -> int:
    """The most errors among `rows` whose exact upper bound is at most `rate`; -1 when none is.

    Same as comparing `risk_upper_bound` with `rate`, at the price of one bisection for all.
    """
    low, high = -1, rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(middle, rows, rate) <= delta else (low, middle)
    return low


def clean_rows(rate: float, delta: float) -> int:
    """The fewest rows, all without error, that prove a risk of at most `rate`."""
    return math.ceil(math.log(delta) / math.log1p(-rate))


def rows_needed(rate: float, delta: float, observed: float) -> int | None:
    """The fewest rows that prove `rate` when errors come at the rate `observed`.

    Returns:
        The number, or None when no number does (or more than `MOST_ROWS`): the observed rate is
        not below `rate`.
    """

    # k errors among the fewest rows that bear them are a rate that rises with k towards `rate`.
    def bears(errors: int) -> bool:
        return observed * _rows_for(errors, rate, delta) <= errors

    if observed >= rate:
        return None
    errors = _least(bears, math.ceil(MOST_ROWS * rate))
    rows = _rows_for(errors, rate, delta)
    return rows if rows <= MOST_ROWS and bears(errors) else None


def _rows_for(errors: int, rate: float, delta: float) -> int:
    """The fewest rows among which so many errors still prove `rate`."""
    return _least(lambda rows: tail(errors, rows, rate) <= delta, 4 * MOST_ROWS)


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The least number from which on it holds, at most `most`."""
    low, high = -1, 1
    while high < most and not holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
