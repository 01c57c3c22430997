"""A night in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.distill_loop.refresh import RefreshResult
    from understudy.distill_loop.run import NightResult


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSummary:
    """What `distill run` prints."""

    name: str
    verdict: str
    reason: str
    bundle: str
    certified: bool
    threshold: float
    keep_rate: float
    rows_missing: int
    rows: dict[str, int]
    new_labels: tuple[str, ...]
    teacher_calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSummary:
    """What `distill refresh` prints."""

    verdict: str
    reason: str
    bundle: str
    new_labels: tuple[str, ...]
    shipped_bytes: int
    seconds: float


def refresh_summary(result: RefreshResult) -> RefreshSummary:
    """Sums up a refresh."""
    return RefreshSummary(
        verdict=result.ruling.value,
        reason=refresh_reason(result),
        bundle=result.bundle,
        new_labels=result.new_labels,
        shipped_bytes=result.shipped_bytes if result.promoted else 0,
        seconds=round(result.seconds, 1),
    )


def night_summary(result: NightResult) -> NightSummary:
    """Sums up a night."""
    return NightSummary(
        name=result.name,
        verdict=result.ruling.value,
        reason=night_reason(result),
        bundle=result.bundle,
        certified=result.certified,
        threshold=result.threshold,
        keep_rate=result.keep_rate,
        rows_missing=result.rows_missing,
        rows=dict(result.rows),
        new_labels=result.new_labels,
        teacher_calls=result.teacher_calls,
        seconds=round(sum(result.seconds.values()), 1),
    )


def night_reason(result: NightResult) -> str:
    """Why the night ended as it did, in one sentence."""
    if not result.promoted:
        return "; ".join(result.reasons) or "the champion stays"
    learned = f"; new classes: {', '.join(result.new_labels)}" if result.new_labels else ""
    if result.certified:
        return f"certified, keeps {100 * result.keep_rate:.0f} % of the audited rows{learned}"
    missing = f", {result.rows_missing} more audited rows needed" if result.rows_missing else ""
    return f"passed the gate, contract not certified{missing}{learned}"


def refresh_reason(result: RefreshResult) -> str:
    """Why a refresh ended as it did, in one sentence."""
    if result.verdict.reasons:
        return "; ".join(result.verdict.reasons)
    learned = f"; new classes: {', '.join(result.new_labels)}" if result.new_labels else ""
    return f"head refreshed, the encoder as it was{learned}"
