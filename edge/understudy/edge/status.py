"""How a client is: for people, for the fleet, and for the updater that watches a new student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.edge.config import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """A client at a glance; holds no input.

    Attributes:
        task: Name of the task.
        bundle: Id of the student that answers.
        cpu: CPU class its encoder was made for; `portable` for the one that runs everywhere.
        mode: How it escalates unless a call says otherwise.
        certified: True if kept answers are covered by a certificate now.
        threshold: Confidence from which the student is trusted; infinite when never.
        audit_rate: Probability of the audit coin.
        gateway: Address of the cloud; empty without one.
        requests: Answers given since the start.
        kept: Of these, the student's own.
        escalated: Of these, the teacher's.
        degraded: Of these, the student's although the teacher should have been asked.
        audits: Audit coins that fell.
        p50_ms: Median time of a call, upper bound of its histogram bucket.
        p99_ms: 99th percentile, likewise.
        spool_rows: Records waiting for the cloud.
        spool_durable: True if they are on disk.
        access_denied: True while the cloud refuses this node's credentials.
        reasons: Answers by reason.
        faults: What went wrong on the side, by kind.
        update: Where the updater stands; empty without one.
        threads: Names of the client's threads that run.
    """

    task: str
    bundle: str
    mode: Mode
    certified: bool
    threshold: float
    audit_rate: float
    cpu: str = "portable"
    gateway: str = ""
    requests: int = 0
    kept: int = 0
    escalated: int = 0
    degraded: int = 0
    audits: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    spool_rows: int = 0
    spool_durable: bool = False
    access_denied: bool = False
    reasons: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    update: str = ""
    threads: tuple[str, ...] = ()
