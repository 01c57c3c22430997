"""What is offered to the fleet, and what a node says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class UpdateState(StrEnum):
    """Where a node's updater stands; persisted before each action."""

    IDLE = "idle"
    CHECK = "check"
    DOWNLOAD = "download"
    VERIFY = "verify"
    STAGE = "stage"
    SELFTEST = "selftest"
    ACTIVATE = "activate"
    PROBATION = "probation"
    COMMIT = "commit"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What a node reports when it checks in.

    Attributes:
        task: Name of the task.
        bundle: Id of the bundle really loaded; empty when none is.
        channel: Channel the node follows.
        state: Where the updater stands.
        failed_bundle: Id of the bundle that failed last; empty when none did.
        failure: Why it failed, one clear sentence.
        client_version: Version of the client software.
        requests: Requests answered since the last check-in.
        kept: Of these, answered by the student as certified or confident.
        escalated: Of these, answered by the teacher.
        degraded: Of these, answered by the student because the teacher could not be asked.
        audits: Audit coins that fell.
        spool_rows: Records waiting on the node.
        dropped_rows: Records lost to bounds since the last check-in.
        shadow_rows: Requests of this probation that both the new student and the champion answered.
        shadow_wins: Of these, the teacher agreed with the new student only.
        shadow_losses: Of these, the teacher agreed with the champion only.
    """

    task: str
    bundle: str
    channel: str = "stable"
    state: UpdateState = UpdateState.IDLE
    failed_bundle: str = ""
    failure: str = ""
    client_version: str = ""
    requests: int = 0
    kept: int = 0
    escalated: int = 0
    degraded: int = 0
    audits: int = 0
    spool_rows: int = 0
    dropped_rows: int = 0
    shadow_rows: int = 0
    shadow_wins: int = 0
    shadow_losses: int = 0


@dataclass(frozen=True, slots=True)
class SliceOrder:
    """What the cloud orders for a slice whose certificate it withdrew.

    Attributes:
        name: The slice; its answers must say `certified=False`.
        threshold_floor: Its threshold is raised to at least this; infinite: keep nothing of it.
    """

    name: str
    threshold_floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What the cloud answers to a check-in.

    Attributes:
        bundle: Id of the bundle this node should run; an unsigned hint that may only pick a signed
            release. Empty: stay.
        target: TUF target path of that bundle's manifest.
        certificate_revoked: True if answers must say `certified=False`.
        threshold_floor: Threshold is raised to at least this; 0 when nothing is wrong.
        audit_rate: Audit rate is raised to at least this; negative to keep the configured one.
        next_check_in_s: Seconds until the next check-in.
        shadow_rate: Share of requests, in [0, 1], on which the champion runs in the shadow of a
            student on probation.
        revoked_slices: Slices whose certificate is withdrawn although the whole's stands.
    """

    bundle: str = ""
    target: str = ""
    certificate_revoked: bool = False
    threshold_floor: float = 0.0
    audit_rate: float = -1.0
    next_check_in_s: float = 900.0
    shadow_rate: float = 0.0
    revoked_slices: tuple[SliceOrder, ...] = ()
