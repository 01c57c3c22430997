"""What the gateway needs from the rooms beside it, in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Protocol

import grpc

from understudy.cloud.teacher import ScoreRequest
from understudy.types.errors import UnderstudyError
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus

Context = grpc.aio.ServicerContext[Any, Any]
"""What gRPC hands to a handler beside the request."""


class Teacher(Protocol):
    """Whoever answers: an engine in this process, or the handle of one that runs elsewhere."""

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """A distribution or an error for each request, same order.

        Raises:
            UnderstudyError: If the whole call failed, as when nobody can be reached.
        """
        ...


class Releases(Protocol):
    """The server's side of the release repository; methods block."""

    def metadata(self, name: str) -> bytes:
        """Bytes of one TUF metadata file.

        Raises:
            BundleError: If there is none of that name.
        """
        ...

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        """A content-addressed file, open for reading, and its size in bytes.

        Raises:
            BundleError: If there is none of that digest.
        """
        ...

    def trusted_root(self) -> bytes:
        """The TUF root that nodes pin when they enrol.

        Raises:
            BundleError: If nothing was ever signed.
        """
        ...


class Fleet(Protocol):
    """Who may have which release yet; methods block."""

    def check_in(self, node: str, status: NodeStatus, now: float) -> Directive:
        """Takes a node's status and says what it should do."""
        ...

    def close(self) -> None:
        """Frees what it keeps; safe to repeat."""
        ...


class Observer(Protocol):
    """Who counts what happens; every method returns at once and never raises."""

    def called(self, method: str, code: str, seconds: float) -> None:
        """One gRPC call has ended."""
        ...

    def refused(self, error: BaseException) -> None:
        """A call or a record was refused."""
        ...

    def cut(self) -> None:
        """The connection of a flooding node was ended."""
        ...

    def took(self, records: Iterable[EscalationRecord], way: str) -> None:
        """Records are durable; `way` is `predict` or `feedback`."""
        ...

    def answered(self, task: str, way: str) -> None:
        """The teacher labelled a record: `predict` while a node asked, `label` afterwards."""
        ...

    def looked_up(self, *, found: bool) -> None:
        """The exact cache was asked."""
        ...

    def asked(self, inputs: int, seconds: float, failures: Sequence[BaseException]) -> None:
        """One call to the teacher has come back."""
        ...

    def checked_in(self, task: str, status: NodeStatus) -> None:
        """A node told how its requests went; `task` is one of ours."""
        ...


class Adviser(Protocol):
    """What the live watch over the contract advises; answers at once, from memory."""

    def advise(self, directive: Directive, status: NodeStatus) -> Directive:
        """The directive, tightened where the watch has seen trouble with the bundle."""
        ...
