"""What the edge asks of the cloud, seen from here; `transport` keeps these promises over gRPC.

Every method has a deadline in seconds, and raises only errors of `types.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from understudy.types.errors import UnderstudyError
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus

Outcome = TeacherLabel | UnderstudyError
"""What became of one record of a batch."""


class ReceiptOutcome(StrEnum):
    """What the cloud did with one reported record."""

    STORED = "stored"
    """Durable there, now or before: it may be forgotten here."""
    REFUSED = "refused"
    """Will never be taken: it may be forgotten here, and is counted."""
    RETRY = "retry"
    """Not now: it stays here."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The acknowledgement of one record; `message` says why when it was not stored."""

    event_id: str
    outcome: ReceiptOutcome
    message: str = ""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What a node gets for its one-time token.

    Attributes:
        certificate: The node's certificate, PEM.
        ca_certificate: Who signs servers and nodes, PEM.
        node: The node's identity.
        trusted_root: Bytes of the TUF root to pin.
    """

    certificate: bytes
    ca_certificate: bytes
    node: str
    trusted_root: bytes


@dataclass(frozen=True, slots=True)
class Renewal:
    """A fresh certificate, and who signs servers from now on; PEM."""

    certificate: bytes
    ca_certificate: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """One record to ask the teacher about in the background, and who wants the outcome."""

    record: EscalationRecord
    traceparent: str
    done: Callable[[Outcome], None]


class Teacher(Protocol):
    """Answers what the student was not sure of."""

    def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        """Asks about one record; idempotent by its event id."""
        ...

    def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        """Asks about many; one outcome a record, same order."""
        ...


class Feedback(Protocol):
    """Takes records that were not asked about at once."""

    def report(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Receipt]:
        """Reports records; a record without a receipt was not taken."""
        ...


class Cloud(Teacher, Feedback, Protocol):
    """What a client needs at least."""


class Fleet(Protocol):
    """Hears how a node is and tells it what to do."""

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        """Reports a node's state."""
        ...


class Node(Protocol):
    """What the update thread does (`node.Node`)."""

    state: str

    def step(self) -> None:
        """Does what is due.

        Raises:
            UnderstudyError: If the cloud refused or could not be asked.
            OSError: If the disk refused.
        """
        ...

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do."""
        ...

    def hurry(self) -> None:
        """Makes the next step due at once."""
        ...

    def stop(self) -> None:
        """Ends what is in flight."""
        ...

    def settle(self) -> None:
        """Says on disk that this process ends in good order."""
        ...

    def farewell(self, timeout_s: float) -> None:
        """Tells the cloud what it has not heard yet, if it can be had in that time."""
        ...
