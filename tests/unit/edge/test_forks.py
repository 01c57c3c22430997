"""Rules of the gate: nobody is inside native code when the process forks."""

from __future__ import annotations

import os
import threading

import pytest

from simulators.edge_gateway import wait_until
from understudy.edge import forks
from understudy.edge.forks import GATE, ForkGate


def test_a_fork_waits_until_nobody_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of ONNX Runtime or SQLite that is held at the fork is held for ever in the child."""
    monkeypatch.setattr(forks, "LONGEST_WAIT_S", 30.0)  # of a thread that gets no processor
    entered, seen = threading.Event(), list[str]()

    def work() -> None:
        with GATE:
            entered.set()
            wait_until(lambda: GATE._closed)
            seen.append("out")

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10)
    child = os.fork()
    if child == 0:
        with GATE:
            os._exit(0 if seen == ["out"] and len(GATE._inside) == 1 else 1)
    thread.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not GATE._inside


def test_who_comes_during_a_fork_waits_until_it_is_over() -> None:
    """Else the gate would never be empty under load."""
    gate, order, waits = ForkGate(), list[str](), threading.Event()

    class Opened(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    gate._opened = Opened()

    def work() -> None:
        with gate:
            order.append("in")

    gate.close()
    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(10)
    order.append("forked")
    gate.open()
    thread.join()

    assert order == ["forked", "in"]


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that never ends must not stop a server from starting its workers."""
    monkeypatch.setattr(forks, "LONGEST_WAIT_S", 0.02)
    gate = ForkGate()
    with gate:
        gate.close()
        gate.open()

    assert not gate._inside


def test_a_child_begins_with_an_empty_gate() -> None:
    """Those who were inside are threads that it does not have."""
    gate = ForkGate()
    gate.__enter__()
    gate.close()
    gate.begin_child()
    with gate:
        assert len(gate._inside) == 1
