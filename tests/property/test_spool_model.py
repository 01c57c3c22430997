"""The spool against a model, crashes and forgetful clocks included."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from understudy.edge.config import SpoolConfig
from understudy.edge.spool import Spool
from understudy.edge.spool_value import AUDIT
from understudy.edge.telemetry import Fault
from unit.edge.test_spool import record

EVENTS = st.integers(0, 30).map(lambda i: f"e{i}")
SUBJECTS = st.sampled_from(["", "anna", "ben"])


class SpoolMachine(RuleBasedStateMachine):
    """`kept` is what must be there; its order is the order of arrival."""

    @initialize(key=st.sampled_from(["", "ab" * 32]), max_rows=st.sampled_from([5, 1000]))
    def begin(self, key: str, max_rows: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.config = SpoolConfig(key=key, max_rows=max_rows)
        self.now, self.wall = 0.0, 1e9
        self.faults: Counter[Fault] = Counter()
        self.kept: dict[str, tuple[int, str]] = {}
        self.open()

    def open(self) -> None:
        # Within a process no jump ages anything; between processes the clock is all there is.
        self.wall = 1e9 + self.now
        self.spool = Spool(
            self.directory, self.config, self.note, wall=lambda: self.wall, clock=lambda: self.now
        )

    def note(self, fault: Fault, count: int) -> None:
        self.faults[fault] += count

    @rule(event=EVENTS, coin=st.booleans(), confidence=st.floats(0, 1), subject=SUBJECTS)
    def put(self, event: str, coin: bool, confidence: float, subject: str) -> None:
        self.spool.put([record(event, coin=coin, confidence=confidence, subject=subject)])
        prio = AUDIT if coin else int(1000 * (1 - confidence))
        self.kept.setdefault(event, (prio, subject))
        while len(self.kept) > self.config.max_rows:
            del self.kept[min(self.kept, key=lambda e: self.kept[e][0])]

    @rule(events=st.lists(EVENTS, max_size=5))
    def settle(self, events: list[str]) -> None:
        self.spool.settle(events)
        for event in events:
            self.kept.pop(event, None)

    @rule(subject=st.sampled_from(["anna", "ben"]))
    def forget(self, subject: str) -> None:
        gone = {event for event, (_, about) in self.kept.items() if about == subject}

        assert self.spool.forget(subject) == len(gone)
        for event in gone:
            del self.kept[event]

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """The process dies without a word: its lock goes, its file stays as the kernel has it."""
        if self.spool._claim is not None and self.spool._disk is not None:
            copy = Path(tempfile.mkdtemp())
            for file in self.directory.iterdir():
                shutil.copy(file, copy / file.name)
            self.spool.close()
            shutil.rmtree(self.directory)
            self.directory = copy
        else:
            self.spool.close()
        self.open()

    @rule(seconds=st.floats(0, 1e3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(wall=st.floats(0, 4e9))
    def clock_jumps(self, wall: float) -> None:
        """Past the age bound, too, in both directions: nothing may be lost in this process."""
        self.wall = wall
        self.spool.expire()

    @invariant()
    def what_is_kept_can_be_taken(self) -> None:
        if not hasattr(self, "spool"):
            return
        taken = [r.event_id for r in self.spool.take(1000, 1 << 40)]

        assert sorted(taken) == sorted(self.kept)
        assert len(taken) == len(set(taken))
        assert self.spool.stats().rows == len(self.kept)
        assert not self.faults[Fault.SPOOL_CORRUPT]
        assert not self.faults[Fault.SPOOL_DAMAGED]

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            shutil.rmtree(self.directory)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
