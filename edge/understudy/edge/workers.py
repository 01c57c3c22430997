"""The client's two daemon threads, and what a fork does to them.

Threads start with the first work, never at import or construction. A forked child has none of its
parent's threads and may hold locks that nobody will ever release: so locks are replaced there,
never acquired, and threads start again when they are needed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable

from understudy.edge.telemetry import Fault, Telemetry


class Worker:
    """One daemon thread that repeats `step` and sleeps in `wait` between.

    Args:
        name: Name of the thread.
        step: The work; what it raises is counted.
        wait: Sleeps until there is work, given the event that ends the thread.
        wake: Ends the sleep.
        telemetry: Counters.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        wait: Callable[[threading.Event], None],
        *,
        wake: Callable[[], None],
        telemetry: Telemetry,
    ) -> None:
        self.name, self._step, self._wait, self._wake = name, step, wait, wake
        self._telemetry = telemetry
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts the thread unless it runs; cheap to repeat."""
        if self._thread is not None or self._stopping.is_set():
            return
        with self._lock:
            if self.running:
                return
            thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                return
            self._thread = thread

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after its present step; safe to repeat."""
        self._stopping.set()
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    @property
    def running(self) -> bool:
        """True while the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def after_fork(self) -> None:
        """Forgets the thread, which does not exist in a child."""
        self._thread = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Exception:  # noqa: BLE001 - the thread outlives any bug
                self._telemetry.fault(Fault.INTERNAL)
                self._stopping.wait(1.0)
            self._wait(self._stopping)


def on_fork(owner: object, method: str) -> None:
    """Calls `owner.method()` in every forked child as long as the owner lives."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(owner)

    def after_in_child() -> None:
        alive = reference()
        if alive is not None:
            getattr(alive, method)()

    os.register_at_fork(after_in_child=after_in_child)


def leak(resource: object) -> None:
    """Keeps a parent's resource alive for ever in a forked child.

    A connection that is closed there, be it by garbage collection at exit, acts on the parent's
    file or waits for the parent's threads.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))


def trim_memory() -> None:
    """Gives free memory back to the system where the C library can; else nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return
