"""No fork in the middle of native code: its locks cannot be replaced in the child.

ONNX Runtime and SQLite hold locks of their own for moments. A child that is forked in such a moment
would wait for ever for a thread that it does not have. So whoever enters native code passes a gate,
and a fork waits until nobody is inside: that takes as long as one run of the student.

Passing costs two operations on a deque, each atomic, and no lock.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from types import TracebackType

LONGEST_WAIT_S = 1.0
"""A fork that has waited so long goes on: somebody may be inside for good."""
_LOOK_S = 0.0002


class ForkGate:
    """Counts who is inside, and keeps everybody out while the process forks. Not reentrant."""

    def __init__(self) -> None:
        self._inside: deque[None] = deque()
        self._closed = False
        self._opened = threading.Event()

    def __enter__(self) -> None:
        # In first, then look: so either this thread sees the fork, or the fork sees this thread.
        self._inside.append(None)
        while self._closed:
            self._inside.pop()
            self._opened.wait(LONGEST_WAIT_S)
            self._inside.append(None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside.pop()

    def close(self) -> None:
        """Lets nobody in any more, and waits until everybody is out, `LONGEST_WAIT_S` at most."""
        self._opened.clear()
        self._closed = True
        end = time.monotonic() + LONGEST_WAIT_S
        while self._inside and time.monotonic() < end:
            time.sleep(_LOOK_S)

    def open(self) -> None:
        """Lets everybody in again."""
        self._closed = False
        self._opened.set()

    def begin_child(self) -> None:
        """In a forked child: whoever was inside is a thread of the parent."""
        self._inside = deque()
        self._opened = threading.Event()
        self._closed = False


GATE = ForkGate()
"""The gate of this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=GATE.close, after_in_parent=GATE.open, after_in_child=GATE.begin_child
    )
