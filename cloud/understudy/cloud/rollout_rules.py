"""The rules of a rollout, pure: who comes first, and what the evidence says.

What becomes of a release on the nodes that have it is evidence in a test that may be looked at
after every node: the stop rule is a betting process whose wealth exceeds 1/alpha with probability
alpha at most, ever, while the release is no worse than tolerated.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

from understudy.cloud.rollout_book import Counts, RolloutState
from understudy.types.errors import InvalidValueError

_FEWEST_SILENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """How fast a release spreads, and what stops it.

    Attributes:
        stages: Share of a channel's nodes that may have it, stage by stage; ends with 1.
        immediate_channels: Channels whose nodes take every release at once.
        stage_s: Shortest time in one stage, seconds.
        decided_share: Share of a stage's nodes that must have committed or failed to go on.
        tolerated_failures: Share of nodes that may fail while the release counts as good.
        alpha: Probability of stopping a good release, over the whole rollout.
        silent_after_s: A node not heard of for so long counts as silent.
        tolerated_silence: Share of a stage's nodes that may be silent.
        shadow_rate: Share of requests on which first-stage nodes run the champion too.
        check_in_s: Seconds between check-ins of nodes that have nothing to do.
        busy_check_in_s: Seconds until a node that was offered something reports.
    """

    stages: tuple[float, ...] = (0.05, 0.25, 1.0)
    immediate_channels: tuple[str, ...] = ("canary",)
    stage_s: float = 3600.0
    decided_share: float = 0.8
    tolerated_failures: float = 0.02
    alpha: float = 0.05
    silent_after_s: float = 3 * 3600.0
    tolerated_silence: float = 0.3
    shadow_rate: float = 0.1
    check_in_s: float = 900.0
    busy_check_in_s: float = 60.0

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not rising or self.stages[-1] != 1.0 or self.stages[0] <= 0.0:
            raise InvalidValueError("rollout stages must rise from above 0 to exactly 1")


class Step(StrEnum):
    """What the evidence says about a rollout."""

    STAY = "stay"
    ADVANCE = "advance"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """A step and its reason, one sentence."""

    step: Step
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLevels:
    """How near each of the three stop rules is, as a share of what stops: 1 stops.

    Attributes:
        failures: Nodes that took the release back or refused it.
        champion: Disputed answers in which the teacher agreed with the champion.
        silence: Nodes that were offered it and fell silent.
    """

    failures: float
    champion: float
    silence: float


def stop_levels(plan: RolloutPlan, counts: Counts) -> StopLevels:
    """How near the stop rules are; may be looked at any time."""
    counted = counts.counted_failed + counts.counted_committed
    pairs = counts.shadow_losses + counts.shadow_wins
    limit = max(plan.tolerated_silence * counts.offered, _FEWEST_SILENT - 1)
    return StopLevels(
        failures=plan.alpha * evidence(counts.counted_failed, counted, plan.tolerated_failures),
        champion=plan.alpha * evidence(counts.shadow_losses, pairs, 0.5),
        silence=counts.silent / (limit + 1e-9) if counts.silent <= limit else 1.0,
    )


def judge_stage(plan: RolloutPlan, counts: Counts, age_s: float, cohort: int) -> StageVerdict:
    """Judges a stage; may be asked after every report.

    Args:
        plan: The rules.
        counts: What became of the release so far.
        age_s: Seconds since the stage began.
        cohort: Nodes of the stage that were heard of lately, asked already or not.
    """
    reason = _reason_to_stop(stop_levels(plan, counts), counts)
    if reason:
        return StageVerdict(Step.HALT, reason)
    tried = counts.failed + counts.committed
    if age_s >= plan.stage_s and tried >= plan.decided_share * cohort:
        return StageVerdict(Step.ADVANCE, f"{counts.committed} of {counts.offered} nodes committed")
    return StageVerdict(Step.STAY)


def _reason_to_stop(levels: StopLevels, counts: Counts) -> str:
    if levels.failures >= 1.0:
        counted = counts.counted_failed + counts.counted_committed
        return f"{counts.counted_failed} of {counted} nodes took it back"
    if levels.champion >= 1.0:
        pairs = counts.shadow_losses + counts.shadow_wins
        return f"the champion was right in {counts.shadow_losses} of {pairs} disputed rows"
    if levels.silence >= 1.0:
        return f"{counts.silent} of {counts.offered} nodes fell silent"
    return ""


def evidence(bad: int, total: int, tolerated: float) -> float:
    """Wealth won by betting that more than a tolerated share is bad.

    The average, over every worse share, of the likelihood ratio to the tolerated one. Started at
    1, it is a supermartingale while the true share is tolerable, whatever made one stop to look.

    Args:
        bad: Bad outcomes.
        total: All outcomes.
        tolerated: The tolerated share, in (0, 1).

    Returns:
        The wealth, positive; capped at 1e300.
    """
    from scipy.special import betaincc, betaln

    good = total - bad
    tail = float(betaincc(bad + 1, good + 1, tolerated))
    if tail <= 0.0:
        return 0.0
    average = float(betaln(bad + 1, good + 1)) + math.log(tail) - math.log1p(-tolerated)
    null = bad * math.log(tolerated) + good * math.log1p(-tolerated)
    return math.exp(min(690.0, average - null))


def place(rollout: RolloutState, node: str) -> float:
    """A node's place in the queue for one release, in [0, 1); another release, another place."""
    key = f"{rollout.task}/{rollout.channel}/{rollout.sequence}/{node}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64


def share_of(plan: RolloutPlan, rollout: RolloutState) -> float:
    """Share of its channel's nodes that a release may have now."""
    return plan.stages[min(rollout.stage, len(plan.stages) - 1)]
