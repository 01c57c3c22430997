"""What every backend of the escalation log promises, on a real SQLite file and a real Redis."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.cloud_gateway import label, record
from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.log import MAX_DELIVERIES, EscalationLog, NewRow
from understudy.cloud.log.redis_streams import RedisLog
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.redis_server import RedisServer

Open = Callable[[], EscalationLog]
_tenants = itertools.count()


class Clock:
    """The gateway's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def open_log(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Iterator[Callable[[], EscalationLog]]:
    """Opens the same log again and again, as processes do."""
    opened: list[EscalationLog] = []
    tenant = f"t{next(_tenants)}"

    def open_one() -> EscalationLog:
        log: EscalationLog
        if request.param == "sqlite":
            log = SqliteLog(tmp_path / "log.db", now=clock)
        else:
            server = RedisServer(request.getfixturevalue("redis_server").url)
            log = RedisLog(server, tenant=tenant, now=clock)
        opened.append(log)
        return log

    yield open_one
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Open) -> EscalationLog:
    return open_log()


def of(node: str = "n1", **changes: object) -> NewRow:
    return NewRow(record(node=node, **changes))


def test_what_was_appended_is_read_back_as_it_was(log: EscalationLog) -> None:
    """The night learns from these rows: an infinite threshold or an odd character must survive."""
    rows = [
        NewRow(record(node="n1", threshold=float("inf"), text="schöne Grüße 😀\n"), label()),
        NewRow(record(node="n1", top=(), subject="person-1")),
    ]

    stored = log.append(rows)

    assert [row.record for row in rows] == [row.record for row in stored]
    assert stored == list(log.scan())
    assert [label(), None] == [row.teacher for row in stored]


def test_sequences_rise_in_the_order_of_appending(log: EscalationLog) -> None:
    """Readers rely on it to see oldest first."""
    stored = log.append([of() for _ in range(5)]) + log.append([of()])

    sequences = [row.sequence for row in stored]
    assert sorted(set(sequences)) == sequences


def test_an_event_that_comes_twice_is_one_row(log: EscalationLog) -> None:
    """A node repeats a call whose answer was lost; the row must not count twice."""
    row = of()
    (first,) = log.append([row])

    (again,) = log.append([row])

    assert first == again
    assert 1 == log.stats().rows


def test_an_event_that_comes_twice_in_one_append_is_one_row(log: EscalationLog) -> None:
    """A node's batch may hold its own repetition."""
    row = of()

    first, again = log.append([row, row])

    assert first.sequence == again.sequence
    assert 1 == len(list(log.scan()))


def test_the_same_event_id_of_two_nodes_is_two_rows(log: EscalationLog) -> None:
    """A hostile node that guesses ids must not swallow the rows of others."""
    made = record()

    log.append([NewRow(replace(made, node=node)) for node in ("n1", "n2")])

    assert ["n1", "n2"] == [row.record.node for row in log.scan()]


def test_a_repetition_brings_the_label_the_row_lacked(log: EscalationLog) -> None:
    """A degraded row may be answered later, when the node asks again."""
    row = of()
    log.append([row])

    (merged,) = log.append([NewRow(row.record, label())])

    assert label() == merged.teacher
    assert 0 == log.stats().unlabelled


def test_the_first_label_stays(log: EscalationLog) -> None:
    """Whoever asks twice must hear the same."""
    row = of()
    log.append([NewRow(row.record, label("refund"))])

    (again,) = log.append([NewRow(row.record, label("card_lost"))])

    assert again.teacher is not None
    assert "refund" == again.teacher.label


def test_a_label_is_attached_once(log: EscalationLog) -> None:
    """Two gateways may label the same row; the rows that were read must not change afterwards."""
    (stored,) = log.append([of()])

    log.attach(stored.sequence, label("refund"))
    log.attach(stored.sequence, label("card_lost"))

    found = log.find(stored.record.event_id, "n1")
    assert found is not None
    assert label("refund") == found.teacher


def test_a_label_for_a_row_that_is_gone_is_dropped(log: EscalationLog) -> None:
    """The row may have been forgotten while the teacher was thinking."""
    (stored,) = log.append([of(subject="p")])
    log.forget("p")

    log.attach(stored.sequence, label())

    assert (0, 0) == (log.stats().rows, log.stats().unlabelled)


def test_a_row_is_found_by_event_and_node_only(log: EscalationLog) -> None:
    """One node must not read what another asked."""
    (stored,) = log.append([of("n1")])

    assert stored == log.find(stored.record.event_id, "n1")
    assert log.find(stored.record.event_id, "n2") is None


def test_rows_survive_the_process(log: EscalationLog, open_log: Open) -> None:
    """Acknowledged means durable."""
    stored = log.append([of(), of()])
    log.close()

    assert stored == list(open_log().scan())


def test_each_reader_sees_each_row_once(log: EscalationLog) -> None:
    """A night must not train twice on a row, and two readers go at their own pace."""
    stored = log.append([of() for _ in range(5)])

    seen = []
    while page := log.read("night", 2):
        seen += page
        log.acknowledge("night", [row.sequence for row in page])

    assert stored == seen
    assert stored == log.read("other", 10)


def test_rows_that_were_not_acknowledged_come_again(log: EscalationLog, open_log: Open) -> None:
    """A night that died goes on where it was."""
    stored = log.append([of() for _ in range(3)])
    log.read("night", 2)
    log.acknowledge("night", [stored[0].sequence])

    assert stored[1:] == open_log().read("night", 10)


def test_a_row_nobody_can_take_is_set_aside(log: EscalationLog) -> None:
    """One poisonous row must not stop every night from now on."""
    poison, good = log.append([of(), of()])
    for _ in range(MAX_DELIVERIES):
        assert [poison] == log.read("night", 1)

    assert [good] == log.read("night", 2)
    assert [poison] == log.dead_letters("night")
    assert 1 == log.stats().dead_letters
    assert [] == log.dead_letters("other")


def test_lag_counts_what_a_reader_has_not_acknowledged(log: EscalationLog) -> None:
    """An operator sees a reader that does not keep up."""
    stored = log.append([of() for _ in range(4)])
    log.read("night", 2)
    log.acknowledge("night", [stored[0].sequence])

    assert {"night": 3} == log.stats().lag


def test_scanning_begins_after_a_sequence(log: EscalationLog) -> None:
    """The live watch goes on where it stopped."""
    stored = log.append([of() for _ in range(4)])

    assert stored[2:] == list(log.scan(stored[1].sequence))


def test_rows_appended_while_scanning_are_seen(log: EscalationLog) -> None:
    """A scan takes pages; it must neither end early nor repeat."""
    log.append([of() for _ in range(600)])

    scanned: list[int] = []
    for row in log.scan():
        if len(scanned) == 10:
            log.append([of()])
        scanned.append(row.sequence)

    assert 601 == len(set(scanned)) == len(scanned)


def test_unlabelled_rows_are_listed_oldest_first(log: EscalationLog) -> None:
    """The teacher catches up in order, and can step over what it could not do."""
    first, _, third = log.append([of(), NewRow(record(node="n1"), label()), of()])

    assert [first, third] == log.unlabelled(10)
    assert [third] == log.unlabelled(10, first.sequence)
    assert [first] == log.unlabelled(1)


def test_a_subject_is_forgotten_everywhere(log: EscalationLog) -> None:
    """A person's right: no row, no pending row, no dead letter stays."""
    log.append([of(subject="p1"), of(subject="p2"), of()])
    log.read("night", 10)

    assert 1 == log.forget("p1")

    assert ["p2", ""] == [row.record.subject for row in log.scan()]
    assert ["p2", ""] == [row.record.subject for row in log.read("night", 10)]
    assert {"night": 2} == log.stats().lag
    assert 0 == log.forget("p1")


def test_forgetting_nobody_deletes_nothing(log: EscalationLog) -> None:
    """Most rows have no subject; an empty word must not mean all of them."""
    log.append([of(), of()])

    assert 0 == log.forget("")
    assert 2 == log.stats().rows


def test_only_old_rows_that_all_readers_are_done_with_are_trimmed(
    log: EscalationLog, clock: Clock
) -> None:
    """A slow reader must never find a hole; a young row may be wanted again."""
    old = log.append([of() for _ in range(4)])
    clock.now += 100
    young = log.append([of()])
    for consumer, count in (("fast", 5), ("slow", 2)):
        rows = log.read(consumer, count)
        log.acknowledge(consumer, [row.sequence for row in rows])

    assert 2 == log.trim(clock.now - 50)
    assert old[2:] + young == list(log.scan())


def test_a_row_in_work_holds_what_is_above_it(log: EscalationLog, clock: Clock) -> None:
    """Trimming stays below the lowest row that somebody has not acknowledged."""
    stored = log.append([of() for _ in range(3)])
    log.read("night", 3)
    log.acknowledge("night", [stored[0].sequence, stored[2].sequence])

    assert 1 == log.trim(clock.now + 1)
    assert stored[1:] == list(log.scan())


def test_without_readers_nothing_is_trimmed(log: EscalationLog, clock: Clock) -> None:
    """Before the first night all of it is still to be read."""
    log.append([of()])

    assert 0 == log.trim(clock.now + 1)


def test_a_sequence_is_never_given_twice(log: EscalationLog, clock: Clock) -> None:
    """Readers remember sequences: a new row must not hide behind an old number."""
    (first,) = log.append([of()])
    log.acknowledge("night", [row.sequence for row in log.read("night", 1)])
    log.trim(clock.now + 1)

    (second,) = log.append([of()])

    assert second.sequence > first.sequence
    assert [second] == log.read("night", 1)


def test_many_writers_lose_and_double_nothing(log: EscalationLog, open_log: Open) -> None:
    """Several gateways append at once, and nodes repeat themselves through all of them."""
    rows = [of(f"n{i % 3}") for i in range(40)]
    logs = [log, open_log(), open_log()]
    threads = [
        threading.Thread(target=lambda one=one: [one.append([row]) for row in rows]) for one in logs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    scanned = list(log.scan())
    assert {row.record for row in rows} == {row.record for row in scanned}
    assert 40 == len(scanned) == log.stats().rows


def test_an_empty_log_answers_everything(log: EscalationLog) -> None:
    """The first minute of a new cloud."""
    log.acknowledge("night", [])

    assert [] == log.append([])
    assert [] == list(log.scan())
    assert [] == log.unlabelled(5)
    assert [] == log.read("night", 5)
    assert 0 == log.trim(2_000.0)
    assert (0, 0, 0, {"night": 0}) == (
        log.stats().rows,
        log.stats().unlabelled,
        log.stats().last_sequence,
        log.stats().lag,
    )


def test_closing_twice_is_fine(log: EscalationLog) -> None:
    """Whoever cleans up need not know who did before."""
    log.close()
    log.close()
