"""Exact cache of teacher answers: never of the student's, never of a degraded one.

The key is a digest of text, task and bundle, so that no input is kept in memory by its name. A hit
replaces the call to the teacher only; the audit coin has been drawn by then.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from understudy.types.records import TeacherLabel


class TeacherCache:
    """Least recently used goes first; thread-safe; 0 entries switch it off.

    Args:
        entries: Most answers kept.
        ttl_s: How long an answer is reused.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries, self._ttl_s, self._clock = entries, ttl_s, clock
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, tuple[float, TeacherLabel]] = OrderedDict()
        self._teacher = ""

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, text: str, task: str, bundle: str) -> TeacherLabel | None:
        """The teacher's answer to this very text, if it is fresh."""
        if not self._entries:
            return None
        key = _key(text, task, bundle)
        with self._lock:
            row = self._rows.get(key)
            if row is None or row[0] < self._clock():
                self._rows.pop(key, None)
                return None
            self._rows.move_to_end(key)
            return row[1]

    def keep(self, text: str, task: str, bundle: str, label: TeacherLabel) -> None:
        """Keeps an answer; another teacher or prompt than before empties the cache first."""
        if not self._entries:
            return
        with self._lock:
            teacher = f"{label.teacher}\n{label.prompt_hash}"
            if teacher != self._teacher:
                self._rows.clear()
                self._teacher = teacher
            self._rows[_key(text, task, bundle)] = (self._clock() + self._ttl_s, label)
            while len(self._rows) > self._entries:
                self._rows.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._rows.clear()

    def after_fork(self) -> None:
        """Replaces the lock, which another thread may have held at the fork."""
        self._lock = threading.Lock()


def _key(text: str, task: str, bundle: str) -> bytes:
    # Lengths first, so that no two triples share their bytes.
    parts = (text, task, bundle)
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=16).digest()
