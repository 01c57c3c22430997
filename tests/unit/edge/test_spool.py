"""Rules of the spool: bounded, each event once, and no disk fault ever reaches a caller."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.edge.circuit import Circuit
from understudy.edge.config import Durability, SpoolConfig
from understudy.edge.spool import Spool
from understudy.edge.spool_codec import RecordCodec
from understudy.edge.telemetry import Fault, Telemetry
from understudy.edge.uploader import Uploader
from understudy.types.decision import RecordKind
from understudy.types.errors import DataError
from understudy.types.records import EscalationRecord, LabelScore

KEY = "ab" * 32
Opener = Callable[..., Spool]


def record(
    event_id: str,
    *,
    coin: bool = False,
    confidence: float = 0.2,
    text: str = "hello",
    subject: str = "",
    kind: RecordKind = RecordKind.DEGRADED,
) -> EscalationRecord:
    return EscalationRecord(
        event_id, "support", "b", text, (LabelScore("card", 0.6),), confidence, float("inf"),
        kind, coin=coin, audit_rate=0.1, propensity=1.0, created_unix_s=1.0,
        subject=subject,
    )  # fmt: skip


class Faults(Counter[Fault]):
    def note(self, fault: Fault, count: int) -> None:
        self[fault] += count


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def opened(tmp_path: Path, faults: Faults) -> Iterator[Opener]:
    spools: list[Spool] = []

    def make(directory: Path | None = tmp_path, **bounds: object) -> Spool:
        clocks = {k: bounds.pop(k) for k in ("wall", "clock") if k in bounds}
        spools.append(Spool(directory, SpoolConfig(**bounds), faults.note, **clocks))  # type: ignore[arg-type] # options pass through
        return spools[-1]

    yield make
    for spool in spools:
        spool.close()


def ids(spool: Spool) -> list[str]:
    return [r.event_id for r in spool.take(1000, 1 << 30)]


@pytest.mark.parametrize("key", ["", KEY], ids=["plain", "sealed"])
@pytest.mark.parametrize("durability", list(Durability))
def test_records_survive_a_restart(opened: Opener, key: str, durability: Durability) -> None:
    """What the product was told is on its way must not depend on the process."""
    first = opened(key=key, durability=durability)
    first.put([record("a"), record("b")])
    first.close()

    assert opened(key=key).take(10, 1 << 20) == [record("a"), record("b")]


def test_an_event_is_kept_once(opened: Opener) -> None:
    """The event id is the idempotency key everywhere."""
    spool = opened()
    spool.put([record("a"), record("a")])
    spool.put([record("a")])

    assert ids(spool) == ["a"]
    assert spool.stats().rows == 1


def test_records_stay_until_they_are_settled(opened: Opener) -> None:
    """At least once: taking is not forgetting."""
    spool = opened()
    spool.put([record("a"), record("b")])

    assert ids(spool) == ids(spool) == ["a", "b"]
    spool.settle(["a", "unknown"])
    assert ids(spool) == ["b"]


def test_a_batch_keeps_both_limits_but_never_starves(opened: Opener) -> None:
    """A single large record must still go out."""
    spool = opened()
    spool.put([record(f"e{i}", text="x" * 1000) for i in range(5)])

    assert len(spool.take(2, 1 << 20)) == 2
    assert len(spool.take(100, 3000)) == 2
    assert len(spool.take(100, 1)) == 1


def test_the_least_valuable_leave_first_and_audits_last(opened: Opener, faults: Faults) -> None:
    """An audited row is evidence for the certificate; a confident degraded one teaches little."""
    spool = opened(max_rows=3)
    spool.put([record("audit", coin=True, confidence=0.99), record("sure", confidence=0.9)])
    spool.put([record("unsure", confidence=0.1), record("lost", confidence=0.5)])

    assert ids(spool) == ["audit", "unsure", "lost"]
    assert faults == {Fault.SPOOL_FULL: 1}


def test_a_lost_audit_is_counted_as_such(opened: Opener, faults: Faults) -> None:
    """The certificate must know what is missing from its sample."""
    spool = opened(max_rows=1)
    spool.put([record("a", coin=True), record("b", coin=True)])

    assert ids(spool) == ["b"]
    assert faults == {Fault.SPOOL_FULL: 1, Fault.AUDIT_LOST: 1}


def test_evidence_outlives_questions_and_questions_outlive_what_was_never_asked(
    opened: Opener,
) -> None:
    """The kind decides first, doubt within it; audits count alike, so that the oldest leaves."""
    spool, kinds = opened(max_rows=6), RecordKind
    spool.put(
        [
            record("audit 1", kind=kinds.AUDIT, coin=True, confidence=0.1),
            record("audit 2", kind=kinds.AUDIT, coin=True, confidence=0.9),
            record("asked, sure", kind=kinds.ESCALATION, confidence=0.9),
            record("asked, unsure", kind=kinds.ESCALATION, confidence=0.1),
            record("degraded, sure", confidence=0.9),
            record("degraded, unsure", confidence=0.1),
        ]
    )
    left = []
    for _ in range(5):
        before = ids(spool)
        spool._config = spool._disk._config = replace(spool._config, max_rows=len(before) - 1)  # type: ignore[union-attr] # it is open
        spool.put([])
        [gone] = set(before) - set(ids(spool))
        left.append(gone)

    assert left == [
        "degraded, sure",
        "degraded, unsure",
        "asked, sure",
        "asked, unsure",
        "audit 1",
    ]


def test_an_audit_that_grew_too_old_is_counted_as_lost(opened: Opener, faults: Faults) -> None:
    """However evidence is lost, the certificate must know."""
    now = [0.0]
    spool = opened(max_age_s=100.0, clock=lambda: now[0], wall=lambda: 1e9)
    spool.put([record("a", coin=True), record("b")])
    now[0] = 101.0
    spool.expire()

    assert faults == {Fault.SPOOL_OLD: 2, Fault.AUDIT_LOST: 1}


def test_what_leaves_when_an_orphan_is_adopted_is_counted(opened: Opener, faults: Faults) -> None:
    """Two files may hold more than one may."""
    one, two = opened(max_rows=2), opened(max_rows=2)
    one.put([record("a", coin=True), record("b")])
    two.put([record("c", coin=True), record("d", coin=True)])
    two.close()
    one.expire()

    assert ids(one) == ["c", "d"]
    assert faults == {Fault.SPOOL_FULL: 2, Fault.AUDIT_LOST: 1}


def test_the_bound_in_bytes_holds(opened: Opener) -> None:
    """A node without a cloud for weeks must not fill its disk."""
    spool = opened(max_bytes=20_000)
    for i in range(100):
        spool.put([record(f"e{i}", text="x" * 1000)])

    assert 0 < spool.stats().bytes <= 20_000


def test_a_bound_lowered_after_a_restart_holds_at_the_next_write(opened: Opener) -> None:
    """An operator who lowers it means it."""
    first = opened()
    first.put([record(f"e{i}") for i in range(50)])
    first.close()
    second = opened(max_rows=10)
    second.put([record("new")])

    assert second.stats().rows == 10


def test_old_records_are_dropped_and_counted(opened: Opener, faults: Faults) -> None:
    """Retention is a promise to people, not only a bound."""
    now = [0.0]
    spool = opened(max_age_s=100.0, clock=lambda: now[0], wall=lambda: 1e9)
    spool.put([record("old")])
    now[0] = 101.0
    spool.put([record("new")])
    spool.expire()

    assert ids(spool) == ["new"]
    assert faults == {Fault.SPOOL_OLD: 1}


def test_a_process_that_lives_for_minutes_keeps_the_age_bound(
    opened: Opener, faults: Faults
) -> None:
    """Retention at start, not an hour later: a job may be started every ten minutes."""
    first = opened(max_age_s=100.0, wall=lambda: 1.7e9)
    first.put([record("old", coin=True)])
    first.close()
    second = opened(max_age_s=100.0, wall=lambda: 1.7e9 + 101)
    Uploader(second, lambda: None, Circuit(), Telemetry(), 10).step()

    assert ids(second) == []
    assert faults == {Fault.SPOOL_OLD: 1, Fault.AUDIT_LOST: 1}


@pytest.mark.parametrize("wrong", [0.0, 946_684_800.0, 4e9], ids=["1970", "2000", "2096"])
def test_rows_of_a_clock_that_was_wrong_count_from_today(opened: Opener, wrong: float) -> None:
    """A node without a battery neither loses its rows at the next start nor keeps them for ever."""
    first = opened(max_age_s=100.0, wall=lambda: wrong)
    first.put([record("a")])
    first.close()
    now = [1.7e9]
    second = opened(max_age_s=100.0, wall=lambda: 1.7e9, clock=lambda: now[0])
    second.expire()
    assert ids(second) == ["a"]

    now[0] += 101
    second.expire()
    assert ids(second) == []


def test_a_clock_that_jumps_ages_nothing(opened: Opener) -> None:
    """A node without a battery starts in 1970 and is corrected to today in mid-flight."""
    wall = [0.0]
    spool = opened(max_age_s=100.0, wall=lambda: wall[0])
    spool.put([record("a")])
    wall[0] = 1.8e9
    spool.expire()

    assert ids(spool) == ["a"]


def test_a_row_put_off_by_a_clock_from_the_future_comes_back(opened: Opener) -> None:
    """A date far ahead must not bury a record."""
    ahead = opened(wall=lambda: 4e9)
    ahead.put([record("a"), record("b")])
    ahead.put_off(["a"], 60)
    assert ids(ahead) == ["b"]
    ahead.close()

    assert ids(opened(wall=lambda: 1.8e9)) == ["a", "b"]


def test_forgetting_a_subject_deletes_every_record_about_it(opened: Opener) -> None:
    """A person's right to be forgotten reaches the disk at once."""
    spool = opened()
    spool.put(
        [record("a", subject="anna"), record("b", subject="ben"), record("c", subject="anna")]
    )

    assert spool.forget("anna") == 2
    assert ids(spool) == ["b"]


@pytest.mark.parametrize(("key", "readable"), [("", True), (KEY, False)])
def test_with_a_key_neither_text_nor_subject_lie_readable_on_disk(
    opened: Opener, tmp_path: Path, key: str, *, readable: bool
) -> None:
    """Whoever copies the disk learns nothing."""
    spool = opened(key=key)
    spool.put([record("a", text="canary text", subject="canary subject")])
    spool.close()

    assert readable == any(b"canary text" in f.read_bytes() for f in tmp_path.iterdir())
    assert all(b"canary subject" not in f.read_bytes() for f in tmp_path.iterdir() if key)


def test_records_sealed_with_another_key_are_dropped_and_counted(
    opened: Opener, faults: Faults
) -> None:
    """They can never be sent; they must not block the others."""
    first = opened(key=KEY)
    first.put([record("sealed")])
    first.close()
    second = opened(key="cd" * 32)
    second.put([record("fresh")])

    assert ids(second) == ["fresh"]
    assert faults == {Fault.SPOOL_DAMAGED: 1}


@pytest.mark.parametrize("key", [b"", bytes.fromhex(KEY)], ids=["plain", "sealed"])
def test_a_flipped_byte_in_a_payload_is_noticed(key: bytes) -> None:
    """A damaged record must not teach the student anything."""
    codec = RecordCodec(key)
    data = bytearray(codec.seal(record("a")))
    for position in range(len(data)):
        data[position] ^= 1
        with pytest.raises(DataError):
            codec.unseal("a", bytes(data))
        data[position] ^= 1

    assert codec.unseal("a", bytes(data)) == record("a")
    with pytest.raises(DataError):
        codec.unseal("b", bytes(data))


def test_a_file_that_is_no_database_is_set_aside(
    opened: Opener, tmp_path: Path, faults: Faults
) -> None:
    """A corrupted spool costs its rows, not the client."""
    (tmp_path / "0.db").write_bytes(b"this is not sqlite" * 1000)
    spool = opened()
    spool.put([record("a")])

    assert ids(spool) == ["a"]
    assert faults == {Fault.SPOOL_CORRUPT: 1}
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 1


def test_pages_scribbled_over_are_survived_at_the_next_start(
    opened: Opener, tmp_path: Path, faults: Faults
) -> None:
    """A dying flash card flips bytes in the middle of the file."""
    first = opened()
    first.put([record(f"e{i}", text="x" * 500) for i in range(200)])
    first.close()
    data = bytearray((tmp_path / "0.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    (tmp_path / "0.db").write_bytes(bytes(data))
    second = opened()
    second.put([record("new")])

    assert "new" in ids(second)
    assert faults[Fault.SPOOL_CORRUPT] == 1


def test_only_the_last_corrupted_file_is_kept(opened: Opener, tmp_path: Path) -> None:
    """Evidence is kept, but it may not fill the disk."""
    for _ in range(3):
        (tmp_path / "0.db").write_bytes(b"garbage" * 1000)
        spool = opened()
        spool.put([record("a")])
        spool.close()

    assert len(list(tmp_path.glob("*.corrupt-*"))) == 1


def test_two_owners_of_one_directory_have_a_file_each(opened: Opener, tmp_path: Path) -> None:
    """Two processes on one state directory must not share a connection."""
    one, two = opened(), opened()
    one.put([record("a")])
    two.put([record("b")])

    assert (ids(one), ids(two)) == (["a"], ["b"])
    assert {f.name for f in tmp_path.glob("*.db")} == {"0.db", "1.db"}


def test_a_file_whose_owner_is_gone_is_adopted(opened: Opener, tmp_path: Path) -> None:
    """A worker that crashed leaves its rows to the next one."""
    one, two = opened(), opened()
    one.put([record("a")])
    two.put([record("b")])
    two.close()
    one.expire()

    assert ids(one) == ["a", "b"]
    assert not (tmp_path / "1.db").exists()


def test_a_read_only_directory_costs_durability_only(
    tmp_path: Path, opened: Opener, faults: Faults
) -> None:
    """Answers and reports go on from memory."""
    (tmp_path / "file").write_text("in the way")
    spool = opened(tmp_path / "file" / "spool")
    spool.put([record("a")])

    assert ids(spool) == ["a"]
    assert not spool.stats().durable
    assert faults[Fault.SPOOL_DISK] > 0
    spool.settle(["a"])
    assert spool.stats().rows == 0


def test_what_memory_held_moves_to_the_disk_once_it_works(tmp_path: Path, opened: Opener) -> None:
    """A disk that was full for an hour must not cost what came in that hour."""
    blocker = tmp_path / "spool"
    blocker.write_text("in the way")
    spool = opened(blocker)
    spool.put([record("a")])
    blocker.unlink()
    spool.put([record("b")])

    assert sorted(ids(spool)) == ["a", "b"]
    assert spool.stats().durable


def test_without_a_directory_records_live_in_memory(opened: Opener, faults: Faults) -> None:
    """A product without a disk still reports."""
    spool = opened(None)
    spool.put([record("a")])

    assert ids(spool) == ["a"]
    assert not faults


_FILL = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import resource
from understudy.edge.config import SpoolConfig
from understudy.edge.spool import Spool
from unit.edge.test_spool import Faults, record
faults = Faults()
spool = Spool(Path({directory!r}), SpoolConfig(), faults.note)
spool.put([record("first")])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for i in range(300):
    spool.put([record(f"e{{i}}", text="x" * 5000)])
print(spool.stats().rows, faults["spool_disk"] > 0)
"""


def test_a_full_disk_sends_records_to_memory_and_loses_none(tmp_path: Path) -> None:
    """The file-size limit of the kernel stands for the full disk: writes fail in the middle."""
    code = _FILL.format(path=sys.path, directory=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["301", "True"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 400_000


_STORM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from understudy.edge.config import SpoolConfig
from understudy.edge.spool import Spool
from unit.edge.test_spool import Faults, record
spool = Spool(Path({directory!r}), SpoolConfig(), Faults().note)
for i in range(10**6):
    spool.put([record(f"{round}-{{i}}-{{k}}") for k in range(5)])
    print(i, flush=True)
"""


def test_killed_writers_lose_nothing_that_was_kept(
    tmp_path: Path, opened: Opener, faults: Faults
) -> None:
    """SIGKILL in the middle of writes, again and again; every row that `put` returned for stays."""
    wanted: set[str] = set()
    for number in range(6):
        code = _STORM.format(path=sys.path, directory=str(tmp_path), round=number)
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        done = [child.stdout.readline() for _ in range(3 + number)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        wanted |= {f"{number}-{int(line)}-{k}" for line in done for k in range(5)}
    spool = opened()
    spool.expire()

    assert wanted <= {r.event_id for r in spool.take(10**6, 1 << 40)}
    assert faults[Fault.SPOOL_CORRUPT] == 0
    assert {f.name for f in tmp_path.glob("*.db")} == {"0.db"}


def test_a_forked_child_claims_a_file_of_its_own(opened: Opener, tmp_path: Path) -> None:
    """The parent's handle must neither be used nor closed in the child."""
    spool = opened()
    spool.put([record("parent")])
    child = os.fork()
    if child == 0:
        spool.after_fork()
        spool.put([record("child")])
        found = ids(spool)
        os._exit(0 if found == ["child"] and (tmp_path / "1.db").exists() else 1)
    _, status = os.waitpid(child, 0)
    spool.put([record("parent 2")])

    assert os.waitstatus_to_exitcode(status) == 0
    spool.expire()
    assert sorted(ids(spool)) == ["child", "parent", "parent 2"]
