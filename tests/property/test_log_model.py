"""Laws of the escalation log: against a model in memory, over any order of events and restarts."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from simulators.cloud_gateway import label, record
from understudy.cloud.log import MAX_DELIVERIES, NewRow
from understudy.cloud.log.rows import decode_label, decode_record, encode_label, encode_record
from understudy.cloud.log.sqlite import SqliteLog
from understudy.types.decision import RecordKind
from understudy.types.records import EscalationRecord, LabelScore, TeacherLabel

_unit = st.floats(0.0, 1.0)
_records = st.builds(
    EscalationRecord,
    event_id=st.text(min_size=1, max_size=40),
    task=st.text(max_size=10),
    bundle=st.text(max_size=64),
    text=st.text(max_size=200),
    top=st.lists(st.builds(LabelScore, st.text(max_size=10), _unit), max_size=4).map(tuple),
    confidence=_unit,
    threshold=st.floats(allow_nan=False),
    kind=st.sampled_from(RecordKind),
    coin=st.booleans(),
    audit_rate=_unit,
    propensity=_unit,
    created_unix_s=st.floats(allow_nan=False, allow_infinity=False),
    node=st.text(max_size=10),
    subject=st.text(max_size=10),
)


@given(_records)
def test_a_record_is_read_back_as_it_was_written(made: EscalationRecord) -> None:
    """Whatever a node sends: infinity, odd characters, empty words."""
    assert made == decode_record(encode_record(made))


@given(st.lists(st.floats(-50.0, 0.0), min_size=1, max_size=5), _unit, st.text(max_size=20))
def test_a_label_is_read_back_as_it_was_written(
    probs: list[float], mass: float, rationale: str
) -> None:
    """Soft labels are what the student learns from; no bit of them may change."""
    ordered = tuple(sorted(probs, reverse=True))
    names = tuple(f"l{i}" for i in range(len(ordered)))
    made = TeacherLabel("t", "p", names, ordered, mass, rationale)

    assert made == decode_label(encode_label(made))
    assert decode_label(encode_label(None)) is None


class LogMachine(RuleBasedStateMachine):
    """The log beside a model of lists and sets."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="log-")
        self.now = 1000.0
        self.log = self.open()
        self.rows: dict[str, list[object]] = {}  # event: sequence, label, time, subject
        self.deliveries: dict[int, int] = {}
        self.done: set[int] = set()
        self.dead: set[int] = set()
        self.read_to = 0
        self.ever_read = False

    def open(self) -> SqliteLog:
        return SqliteLog(Path(self.folder.name) / "log.db", now=lambda: self.now)

    def teardown(self) -> None:
        self.log.close()
        self.folder.cleanup()

    @rule(
        events=st.lists(st.integers(0, 8), min_size=1, max_size=4),
        labelled=st.booleans(),
        subject=st.sampled_from(["", "p", "q"]),
    )
    def append(self, events: list[int], labelled: bool, subject: str) -> None:
        teacher = label() if labelled else None
        new = [
            NewRow(record(event_id=f"e{e}", node="n", subject=subject, created_unix_s=1.0), teacher)
            for e in events
        ]
        stored = self.log.append(new)
        for event, row in zip(events, stored, strict=True):
            entry = self.rows.setdefault(f"e{event}", [row.sequence, None, self.now, subject])
            entry[1] = entry[1] or teacher
            assert (entry[0], entry[1]) == (row.sequence, row.teacher)

    @rule(limit=st.integers(1, 4))
    def read(self, limit: int) -> None:
        alive = {entry[0] for entry in self.rows.values()}
        pending = sorted(s for s in self.deliveries if s in alive)
        for sequence in pending[:limit]:
            if self.deliveries[sequence] >= MAX_DELIVERIES:
                del self.deliveries[sequence]
                self.dead.add(sequence)
            else:
                self.deliveries[sequence] += 1
        pending = sorted(s for s in self.deliveries if s in alive)
        fresh = sorted(s for s in alive if isinstance(s, int) and s > self.read_to)
        for sequence in fresh[: max(0, limit - len(pending))]:
            self.deliveries[sequence] = 1
            self.read_to = sequence
        self.ever_read = True

        found = [row.sequence for row in self.log.read("night", limit)]

        assert sorted(s for s in self.deliveries if s in alive)[:limit] == found

    @rule(count=st.integers(0, 3))
    def acknowledge(self, count: int) -> None:
        chosen = sorted(self.deliveries)[:count]
        self.log.acknowledge("night", chosen)
        for sequence in chosen:
            del self.deliveries[sequence]

    @rule(subject=st.sampled_from(["p", "q"]))
    def forget(self, subject: str) -> None:
        gone = [event for event, entry in self.rows.items() if entry[3] == subject]
        assert len(gone) == self.log.forget(subject)
        for event in gone:
            self._drop(event)

    @rule(age=st.floats(0.0, 5.0))
    def trim(self, age: float) -> None:
        before = self.now - age
        held = min(self.deliveries, default=math.inf)
        gone = [
            event
            for event, (sequence, _, logged, _) in self.rows.items()
            if self.ever_read and logged < before and sequence <= self.read_to and sequence < held  # type: ignore[operator]
        ]
        assert len(gone) == self.log.trim(before)
        for event in gone:
            self._drop(event)

    @rule(seconds=st.floats(0.5, 3.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.log = self.open()

    @invariant()
    def the_log_holds_what_the_model_holds(self) -> None:
        expected = sorted((entry[0], entry[1]) for entry in self.rows.values())
        assert expected == [(row.sequence, row.teacher) for row in self.log.scan()]

    @invariant()
    def the_numbers_are_right(self) -> None:
        stats = self.log.stats()
        assert len(self.rows) == stats.rows
        assert sum(entry[1] is None for entry in self.rows.values()) == stats.unlabelled

    def _drop(self, event: str) -> None:
        sequence = self.rows.pop(event)[0]
        assert isinstance(sequence, int)
        self.deliveries.pop(sequence, None)
        self.dead.discard(sequence)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
