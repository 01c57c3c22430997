"""What would have been: thresholds and contracts that never ran, judged on one's own log.

A logged row's label was obtained with a known probability, its propensity. Weighted by its inverse,
the labelled rows speak for all requests, whatever threshold was in force when they were logged.

* IPS: weighted errors over the number of requests. Unbiased.
* SNIPS: over the sum of the weights. Slightly biased, steadier, needs no number of requests.
* DR: what the calibration expects, corrected by the weighted surprise. Better with a good
  calibration, right without one.

Intervals of IPS and SNIPS are those of a weighted Poisson sum (Fay and Feuer), which hold for a few
errors and for none; that of DR is normal, widened by one error that was not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from understudy.router.certificate import certify
from understudy.router.evidence import evidence, is_error
from understudy.router.noise import NoiseReport, NoiseRule, judge_log
from understudy.types.contract import Certificate, Contract
from understudy.types.decision import RecordKind
from understudy.types.errors import DataError, InvalidValueError
from understudy.types.records import LoggedRow

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log as columns, each of shape (N,).

    Attributes:
        confidence: The student's, in [0, 1]; -1 where the policy never keeps.
        error: 1 where student and teacher differ, 0 where they agree, NaN where no label is known.
        propensity: Probability with which the label was obtained, in (0, 1].
        coin: True where the audit coin fell, whatever became of the request.
        requests: How many requests the log stands for; estimated from the propensities when None.
            Give it whenever it is known; for a log that holds every request it is N.
    """

    confidence: Floats
    error: Floats
    propensity: Floats
    coin: Bools
    requests: float | None = None

    def __post_init__(self) -> None:
        columns = (self.confidence, self.error, self.propensity, self.coin)
        if len({c.shape for c in columns}) != 1 or self.confidence.ndim != 1:
            raise InvalidValueError("the columns of a log have one length")
        if not len(self.confidence) or np.isnan(self.error).all():
            raise DataError("the log has no labelled row")
        wrong = ~((self.propensity > 0.0) & (self.propensity <= 1.0)) | np.isnan(self.confidence)
        if wrong.any():
            raise DataError(
                f"row {int(np.flatnonzero(wrong)[0]) + 1}: a logged row needs a confidence and a "
                "propensity in (0, 1]"
            )

    @property
    def weights(self) -> Floats:
        """Inverse propensity of the labelled rows, 0 for the others."""
        return np.where(np.isnan(self.error), 0.0, 1.0 / self.propensity)

    @property
    def size(self) -> float:
        """How many requests the log stands for."""
        return float(self.weights.sum()) if self.requests is None else self.requests

    @property
    def complete(self) -> bool:
        """True if the log holds every request, labelled or not."""
        return self.requests is not None and len(self.confidence) >= self.requests


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its interval, all in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a threshold would have done.

    Attributes:
        threshold: The threshold asked about.
        audit_rate: The audit rate asked about.
        escalated: Share of requests that would have gone to the teacher.
        calls: The same with audits of kept requests.
        risk_ips: P(kept and student differs from teacher), by inverse propensity.
        risk_snips: The same, self-normalised.
        risk_dr: The same, doubly robust.
        agreement: 1 - `risk_snips`: how often the answer would have been the teacher's.
        savings: Share of cost saved against always asking the teacher.
        labelled_rows: Rows the estimates rest on.
        effective_rows: How many equally weighted rows they are worth.
        certificate: Of the contract asked about, on the log's coin rows; None for a threshold.
    """

    threshold: float
    audit_rate: float
    escalated: Estimate
    calls: Estimate
    risk_ips: Estimate
    risk_snips: Estimate
    risk_dr: Estimate
    agreement: Estimate
    savings: Estimate
    labelled_rows: int
    effective_rows: float
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How an answer is judged.

    Attributes:
        audit_rate: Probability of the audit coin, in [0, 1].
        confidence: Of the intervals, in (0, 1).
        student_cost: Cost of a student's answer in units of a teacher's, at or above 0.
    """

    audit_rate: float = 0.01
    confidence: float = 0.95
    student_cost: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.audit_rate <= 1.0 and 0.0 < self.confidence < 1.0):
            raise InvalidValueError("audit_rate must lie in [0, 1] and confidence between 0 and 1")
        if not self.student_cost >= 0.0:
            raise InvalidValueError("student_cost must be at or above 0")


def what_if(log: Log, threshold: float, terms: Terms | None = None) -> WhatIf:
    """Judges a threshold that need never have run."""
    asked = terms or Terms()
    weights = log.weights
    snips = risk_snips(log, threshold, asked.confidence)
    escalated = escalated_share(log, threshold, asked.confidence)
    calls = _affine(escalated, asked.audit_rate, 1.0 - asked.audit_rate)
    return WhatIf(
        threshold=threshold,
        audit_rate=asked.audit_rate,
        escalated=escalated,
        calls=calls,
        risk_ips=risk_ips(log, threshold, asked.confidence),
        risk_snips=snips,
        risk_dr=risk_dr(log, threshold, asked.confidence),
        agreement=_affine(snips, 1.0, -1.0),
        savings=_affine(calls, 1.0 - asked.student_cost, -1.0),
        labelled_rows=int((weights > 0.0).sum()),
        effective_rows=float(weights.sum() ** 2 / (weights**2).sum()),
    )


def what_if_contract(log: Log, contract: Contract, terms: Terms | None = None) -> WhatIf:
    """Judges a contract: certifies on the log's coin rows, then judges the threshold found."""
    certificate = certify(log.confidence[log.coin], 1.0 - log.error[log.coin], contract)
    judged = what_if(log, certificate.threshold, terms)
    return replace(judged, certificate=certificate)


def risk_ips(log: Log, threshold: float, confidence: float = 0.95) -> Estimate:
    """Inverse propensity over the number of requests."""
    return _risk(log, threshold, log.size, confidence)


def risk_snips(log: Log, threshold: float, confidence: float = 0.95) -> Estimate:
    """Inverse propensity over the sum of the weights."""
    return _risk(log, threshold, float(log.weights.sum()), confidence)


def risk_dr(log: Log, threshold: float, confidence: float = 0.95) -> Estimate:
    """What the calibration expects of every request, corrected on the labelled ones."""
    terms, size = dr_terms(log, threshold), log.size
    value = float(terms.sum() / size)
    unseen = float(log.weights[log.confidence >= threshold].max(initial=1.0))
    variance = float(((terms - terms.mean()) ** 2).sum() + unseen**2) / size**2
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * variance**0.5
    return _estimate(value, value - half, value + half)


def dr_terms(log: Log, threshold: float) -> Floats:
    """The doubly robust terms, shape (N,); their sum over the requests is the risk, unbiased.

    They may be negative or above 1 one by one. In a log of labelled rows only, those rows stand for
    the requests it does not hold, and what is left is the inverse propensity estimate.
    """
    kept = log.confidence >= threshold
    expected = np.where(kept, 1.0 - np.clip(log.confidence, 0.0, 1.0), 0.0)
    direct = expected if log.complete else log.weights * expected
    terms: Floats = direct + log.weights * (_wrongly_kept(log, threshold) - expected)
    return terms


def escalated_share(log: Log, threshold: float, confidence: float = 0.95) -> Estimate:
    """Share of requests under a threshold."""
    under = (log.confidence < threshold).astype(np.float64)
    weights = np.ones_like(under) if log.complete else log.weights
    value = float((weights * under).sum() / weights.sum())
    variance = float((weights**2 * (under - value) ** 2).sum() / weights.sum() ** 2)
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * variance**0.5
    return _estimate(value, value - half, value + half)


def read_log(
    rows: Iterable[LoggedRow], *, requests: float | None = None, noise: NoiseRule | None = None
) -> tuple[Log, NoiseReport]:
    """Makes columns of logged rows; unreliable and degraded rows lose their say.

    Args:
        rows: Rows of one task, any order.
        requests: How many requests they stand for, when known.
        noise: What a teacher's label must bring; the defaults when omitted.

    Raises:
        DataError: If no row has a label that can be used.
    """
    found = list(rows)
    report = judge_log(found, noise)
    usable = [
        row
        for row, reliable in zip(found, report.reliable, strict=True)
        if reliable and row.record.kind is not RecordKind.DEGRADED and row.record.propensity > 0.0
    ]
    weighed = [evidence(row.record, error=is_error(row)) for row in usable]
    labelled = np.array([row.teacher is not None for row in usable], dtype=bool)
    error = np.array([e.error for e in weighed], dtype=np.float64)
    log = Log(
        confidence=np.array([e.confidence for e in weighed], dtype=np.float64),
        error=np.where(labelled, error, np.nan),
        propensity=np.array([row.record.propensity for row in usable], dtype=np.float64),
        coin=np.array([row.record.coin for row in usable], dtype=bool),
        requests=requests,
    )
    return log, report


def _risk(log: Log, threshold: float, size: float, confidence: float) -> Estimate:
    weights = log.weights
    here = weights[log.confidence >= threshold]
    largest = float(here.max(initial=0.0)) or float(weights.max())
    return _weighted_share(_wrongly_kept(log, threshold) * weights, size, largest, confidence)


def _wrongly_kept(log: Log, threshold: float) -> Floats:
    wrong: Floats = ((log.confidence >= threshold) & (log.error == 1.0)).astype(np.float64)
    return wrong


def _weighted_share(terms: Floats, size: float, largest: float, confidence: float) -> Estimate:
    """The interval of Fay and Feuer (1997) for a weighted sum of rare events, over `size`.

    Args:
        terms: Weight of each event that happened, 0 where none did.
        size: What the sum is a share of.
        largest: The weight an event that did not happen could have had.
        confidence: Of the interval.
    """
    doubt = (1.0 - confidence) / 2
    total, squares = float(terms.sum()), float((terms**2).sum())
    low = _gamma_quantile(total, squares, doubt) if total > 0.0 else 0.0
    high = _gamma_quantile(total + largest, squares + largest**2, 1.0 - doubt)
    return _estimate(total / size, low / size, high / size)


def _gamma_quantile(total: float, squares: float, level: float) -> float:
    scale = squares / (2.0 * total)
    return float(scale * stats.chi2.ppf(level, total / scale))


def _estimate(value: float, low: float, high: float) -> Estimate:
    inside = [min(1.0, max(0.0, v)) for v in (value, low, high)]
    return Estimate(*inside)


def _affine(share: Estimate, start: float, slope: float) -> Estimate:
    """`start + slope * share`, the interval turned round where the slope falls."""
    ends = sorted((start + slope * share.low, start + slope * share.high))
    return Estimate(start + slope * share.value, ends[0], ends[1])
