"""The student in use with its policy: one immutable value behind one reference.

A request reads the reference once and works with what it got; a swap replaces it. So there is no
lock on the read path, and no answer mixes two bundles.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from understudy.edge.bundle import Bundle
from understudy.edge.config import EdgeConfig
from understudy.edge.student import PROFILES, Student
from understudy.edge.telemetry import BOUNDS_MS, Histogram
from understudy.router.policy import Policy
from understudy.router.score import score
from understudy.types.contract import Calibration
from understudy.types.errors import BundleError, InvalidValueError
from understudy.types.release import Directive


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one student has done since it was loaded; a copy.

    Attributes:
        requests: Answers it took part in.
        errors: Of these, it raised.
        invalid: Of these, its numbers were unusable.
        escalated: Of these, the policy wanted the teacher.
        compared: Audited requests of which the teacher's label came back.
        disagreed: Of these, the teacher said something else.
        shadow_rows: Requests that the champion answered in its shadow, teacher's label known.
        shadow_wins: Of these, the teacher agreed with the new student only.
        shadow_losses: Of these, the teacher agreed with the champion only.
        latency: Of the student's own run.
    """

    requests: int = 0
    errors: int = 0
    invalid: int = 0
    escalated: int = 0
    compared: int = 0
    disagreed: int = 0
    shadow_rows: int = 0
    shadow_wins: int = 0
    shadow_losses: int = 0
    latency: Histogram = field(default_factory=Histogram)


class Record:
    """Counts of one student; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Tally.__slots__, 0)
        self._buckets = [0] * (len(BOUNDS_MS) + 1)
        self._total_ms = 0.0

    def answered(self, student_ms: float, *, error: bool, invalid: bool, escalated: bool) -> None:
        """Counts one run of the student."""
        with self._lock:
            counts = self._counts
            counts["requests"] += 1
            counts["errors"] += error
            counts["invalid"] += invalid and not error
            counts["escalated"] += escalated
            self._buckets[bisect_left(BOUNDS_MS, student_ms)] += 1
            self._total_ms += student_ms

    def compared(self, *, agreed: bool) -> None:
        """Counts one audited label."""
        with self._lock:
            self._counts["compared"] += 1
            self._counts["disagreed"] += not agreed

    def shadowed(self, *, mine: bool, champions: bool) -> None:
        """Counts one request that both students answered; True for who agreed."""
        with self._lock:
            self._counts["shadow_rows"] += 1
            self._counts["shadow_wins"] += mine and not champions
            self._counts["shadow_losses"] += champions and not mine

    def tally(self) -> Tally:
        """A copy of the counts."""
        with self._lock:
            counts: Mapping[str, int] = {k: v for k, v in self._counts.items() if k != "latency"}
            return Tally(**counts, latency=Histogram(tuple(self._buckets), self._total_ms))

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A student ready to answer.

    Attributes:
        bundle: What it came from, without the bytes.
        student: The model.
        calibration: How its numbers become a confidence.
        policy: Keep or escalate.
        expires_unix_s: When its certificate ends.
        record: What it has done.
        calm: The policy without the cloud's orders; None while there were none.
    """

    bundle: Bundle
    student: Student
    calibration: Calibration
    policy: Policy
    expires_unix_s: float = math.inf
    record: Record = field(default_factory=Record)
    calm: Policy | None = None

    def directed(self, directive: Directive) -> Loaded:
        """The same student under the cloud's orders; earlier orders end."""
        calm = self.policy if self.calm is None else self.calm
        return replace(self, policy=calm.with_directive(directive), calm=calm)


def load(bundle: Bundle, config: EdgeConfig, audit_key: bytes, audit_rate: float) -> Loaded:
    """Builds and warms up a student, and the policy its certificate allows here.

    Raises:
        BundleError: If the bundle cannot be loaded, or gives other numbers here than it should.
    """
    make = Student.proved if config.check_golden else Student.load
    student = make(bundle, PROFILES[config.profile])
    _warm_up(student)
    chosen = student.bundle  # a variant for this CPU has a certificate of its own
    certificate = chosen.certificate
    policy = Policy.from_certificate(certificate, audit_rate=audit_rate, audit_key=audit_key)
    if config.contract.on_uncertified is not None:
        policy = replace(policy, on_uncertified=config.contract.on_uncertified)
    if config.contract.precedence is not None:
        policy = replace(policy, precedence=config.contract.precedence)
    return Loaded(chosen, student, chosen.calibration, policy, certificate.expires_unix_s)


def _warm_up(student: Student) -> None:
    """One text through student and score, so that nothing goes wrong for the first time later."""
    reading = student.read("warm up")
    try:
        score(reading.logits, reading.similarity, student.bundle.calibration)
    except InvalidValueError as error:
        raise BundleError(f"the calibration cannot be used: {error}") from error
