"""The escalation log's port: durable before acknowledged, each record once, readers at their pace.

Backends live in `sqlite` and `redis_streams`; one suite of contract tests holds for both. Methods
block and are thread-safe; the gateway calls them from a worker thread, in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from understudy.types.records import EscalationRecord, LoggedRow, TeacherLabel

MAX_DELIVERIES = 5
"""How often a row is handed to one consumer before it is set aside."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A record on its way into the log, with the teacher's label where there is one already."""

    record: EscalationRecord
    teacher: TeacherLabel | None = None


@dataclass(frozen=True, slots=True)
class LogStats:
    """How the log stands.

    Attributes:
        rows: Rows kept.
        unlabelled: Of these, without a teacher's label.
        last_sequence: Highest sequence given; 0 when empty.
        lag: Rows not yet acknowledged, by consumer.
        dead_letters: Rows set aside because no consumer could take them.
    """

    rows: int
    unlabelled: int
    last_sequence: int
    lag: dict[str, int]
    dead_letters: int = 0


class EscalationLog(Protocol):
    """What gateway and night rely on."""

    def append(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        """Makes rows durable, then returns them as they stand in the log, same order.

        A row whose event id (and node) is there already is not written again: what is stored is
        returned, with the new label attached if it had none.

        Raises:
            OverloadedError: If the store refuses writes for now.
            LinkDownError: If the store cannot be reached.
        """
        ...

    def find(self, event_id: str, node: str) -> LoggedRow | None:
        """The row of that event from that node, if it is there."""
        ...

    def attach(self, sequence: int, teacher: TeacherLabel) -> None:
        """Adds the teacher's label to a row that had none; repeating it changes nothing."""
        ...

    def read(self, consumer: str, limit: int) -> list[LoggedRow]:
        """The next rows this consumer has not acknowledged, oldest first; [] when there is none.

        Rows that were read and not acknowledged come again, before newer ones, up to
        `MAX_DELIVERIES` times; then they are set aside for this consumer as dead letters.
        """
        ...

    def acknowledge(self, consumer: str, sequences: Sequence[int]) -> None:
        """Tells that the consumer is done with these rows; they are not read again."""
        ...

    def dead_letters(self, consumer: str) -> list[LoggedRow]:
        """Rows set aside because the consumer took them `MAX_DELIVERIES` times in vain."""
        ...

    def scan(self, after_sequence: int = 0) -> Iterator[LoggedRow]:
        """Every row kept after a sequence, oldest first, acknowledged or not."""
        ...

    def unlabelled(self, limit: int, after_sequence: int = 0) -> list[LoggedRow]:
        """Rows after a sequence that still need the teacher, oldest first."""
        ...

    def forget(self, subject: str) -> int:
        """Deletes every row about a subject; returns how many."""
        ...

    def trim(self, before_unix_s: float) -> int:
        """Deletes rows logged earlier and below the first that any consumer is not done with.

        Returns how many.
        While nobody has ever read, nothing is deleted: no reader is not the same as all readers.
        """
        ...

    def stats(self) -> LogStats:
        """How the log stands."""
        ...

    def close(self) -> None:
        """Frees the store; safe to repeat."""
        ...
