"""Whether a new student may stay: counters in, verdict out. Nothing here does I/O.

A student on probation is watched for errors, unusable numbers, latency, how often it escalates, and
how often the teacher disagrees with what it would have kept. Each rule only condemns on evidence:
small numbers are judged by the bound of an interval, not by a ratio.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from understudy.types.errors import InvalidValueError


class Judgement(StrEnum):
    """What shall become of a student on probation."""

    WAIT = "wait"
    COMMIT = "commit"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbationCounters:
    """What a student has done since it was swapped in; all cumulative.

    Attributes:
        requests: Answers given.
        errors: Of these, the student raised.
        invalid: Of these, its numbers were unusable.
        escalated: Of these, were escalated by the policy, whether or not the teacher was reached.
        latency_p95_ms: 95th percentile of the student's own run, milliseconds; 0 when unknown.
        compared: Audited answers with a teacher's label.
        disagreed: Of these, the teacher said something else.
        shadow_rows: Answers that the champion gave too, in the shadow.
        shadow_wins: Of these, the teacher agreed with the new student only.
        shadow_losses: Of these, the teacher agreed with the champion only.
    """

    requests: int = 0
    errors: int = 0
    invalid: int = 0
    escalated: int = 0
    latency_p95_ms: float = 0.0
    compared: int = 0
    disagreed: int = 0
    shadow_rows: int = 0
    shadow_wins: int = 0
    shadow_losses: int = 0

    def __post_init__(self) -> None:
        if any(not value >= 0 for value in asdict(self).values()):
            raise InvalidValueError("probation counters must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbationRules:
    """When to commit, and when to go back.

    Attributes:
        min_requests: Answers wanted before a commit.
        min_s: Seconds wanted before a commit.
        max_s: After so many seconds a node without traffic commits on what it has seen.
        max_errors: More errors than this end the probation at once.
        max_invalid_share: Largest share of unusable numbers.
        latency_requests: Answers wanted before the percentile is judged at all: a busy machine
            makes a few of them slow, whoever answers.
        latency_ratio: Largest ratio to the champion's 95th percentile.
        latency_allowance_ms: A percentile below this is never too slow.
        escalation_ratio: Largest ratio to the champion's escalation rate, and to the certificate's.
        disagreement_margin: How much more often than with the champion the teacher may disagree.
        shadow_evidence: Evidence against the new student, as a betting wealth, that ends it; at
            most one in so many good students is lost to chance, however often one looks.
    """

    min_requests: int = 200
    min_s: float = 600.0
    max_s: float = 86_400.0
    max_errors: int = 0
    max_invalid_share: float = 0.01
    latency_requests: int = 200
    latency_ratio: float = 3.0
    latency_allowance_ms: float = 20.0
    escalation_ratio: float = 3.0
    disagreement_margin: float = 0.05
    shadow_evidence: float = 100.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement and its reason, one sentence; empty while waiting."""

    judgement: Judgement
    reason: str = ""


def judge(
    now: ProbationCounters,
    before: ProbationCounters,
    rules: ProbationRules,
    *,
    elapsed_s: float,
    promised_escalation: float,
) -> Verdict:
    """Judges a student on probation.

    Args:
        now: Its counters since the swap.
        before: The champion's counters when it was swapped out.
        rules: When to commit, and when to go back.
        elapsed_s: Seconds since the swap.
        promised_escalation: Share of requests that its own certificate expects to escalate.
    """
    fault = _fault(now, before, rules, promised_escalation)
    if fault:
        return Verdict(Judgement.ROLLBACK, fault)
    seen_enough = now.requests >= rules.min_requests and elapsed_s >= rules.min_s
    if seen_enough or elapsed_s >= rules.max_s:
        return Verdict(Judgement.COMMIT, f"{now.requests} requests without fault")
    return Verdict(Judgement.WAIT)


def _fault(
    now: ProbationCounters, before: ProbationCounters, rules: ProbationRules, promised: float
) -> str:
    if now.errors > rules.max_errors:
        return f"the student raised {now.errors} errors in {now.requests} requests"
    if _lower(now.invalid, now.requests) > rules.max_invalid_share:
        return f"{now.invalid} of {now.requests} answers had unusable numbers"
    return (
        _slowness(now, before, rules)
        or _escalation(now, before, rules, promised)
        or _disagreement(now, before, rules)
    )


def _slowness(now: ProbationCounters, before: ProbationCounters, rules: ProbationRules) -> str:
    limit = max(rules.latency_allowance_ms, rules.latency_ratio * before.latency_p95_ms)
    if now.requests >= rules.latency_requests and now.latency_p95_ms > limit:
        return f"the student needs {now.latency_p95_ms:.1f} ms at the 95th percentile"
    return ""


def _escalation(
    now: ProbationCounters, before: ProbationCounters, rules: ProbationRules, promised: float
) -> str:
    """Far more than both champion and certificate, or far less than both, is a broken student.

    One of them alone is not enough: a first certified student rightly escalates far less than an
    uncertified champion, and traffic that drifts makes every student escalate more.
    """
    champion = before.escalated / before.requests if before.requests else promised
    most = rules.escalation_ratio * max(champion, promised, 0.05)
    least = min(champion, promised) / rules.escalation_ratio
    rate = now.escalated / now.requests if now.requests else 0.0
    if _lower(now.escalated, now.requests) > most:
        return f"the student escalates {rate:.0%} of requests, far more than expected"
    if _upper(now.escalated, now.requests) < least:
        return f"the student escalates {rate:.0%} of requests, far less than expected"
    return ""


def _disagreement(now: ProbationCounters, before: ProbationCounters, rules: ProbationRules) -> str:
    if loss_evidence(now.shadow_wins, now.shadow_losses) >= rules.shadow_evidence:
        return (
            f"the champion was right {now.shadow_losses} times where the student was wrong, "
            f"and {now.shadow_wins} times the other way"
        )
    worst = _upper(before.disagreed, before.compared) if before.compared else 1.0
    if _lower(now.disagreed, now.compared) > worst + rules.disagreement_margin:
        return f"the teacher disagrees with {now.disagreed} of {now.compared} audited answers"
    return ""


def loss_evidence(wins: int, losses: int) -> float:
    """How strongly paired answers speak against the new student; may be looked at any time.

    The wealth of a bettor who bets on losses against a fair coin, averaged over stakes: under a
    student no worse than the champion its expectation never exceeds 1 (Ville's inequality).
    """
    shares = (0.55, 0.6, 0.7, 0.8, 0.9)
    logs = [losses * math.log(2 * p) + wins * math.log(2 * (1 - p)) for p in shares]
    peak = max(logs)
    return math.exp(min(700.0, peak)) * sum(math.exp(x - peak) for x in logs) / len(shares)


def _lower(count: int, total: int) -> float:
    return _wilson(count, total)[0]


def _upper(count: int, total: int) -> float:
    return _wilson(count, total)[1]


def _wilson(count: int, total: int, z: float = 2.58) -> tuple[float, float]:
    """The Wilson interval of a share, at 99 %; (0, 1) without observations."""
    if total == 0:
        return 0.0, 1.0
    share = count / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)
