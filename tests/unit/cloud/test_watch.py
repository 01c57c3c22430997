"""The live watch: the log in, advice out; each row once, whatever dies in between."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from simulators.cloud_gateway import LABELS, TASK, label, record
from understudy.cloud.log import NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.state import SqliteState
from understudy.cloud.watch import (
    BundleStanding,
    ContractWatch,
    SharedAdvice,
    last_changes,
    read_published,
)
from understudy.types.bundle import (
    CERTIFICATE,
    REQUIRED,
    FileEntry,
    Manifest,
    bundle_id,
    encode_manifest,
)
from understudy.types.contract import Contract
from understudy.types.decision import RecordKind
from understudy.types.errors import BundleError
from understudy.types.records import TeacherLabel
from understudy.types.release import Directive, NodeStatus, SliceOrder


class Shelf:
    """Published blobs in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def publish(self, threshold: float | None = 0.8, task: str = TASK, **changes: object) -> str:
        certificate = json.dumps(
            {
                "contract": {"max_quality_loss": 0.02, "confidence": 0.95},
                "certified": threshold is not None,
                "threshold": threshold,
                "risk_upper_bound": 0.015,
                "keep_rate": 0.9,
                "rows": 900,
                "errors": 4,
                "rows_missing": 0,
                "expires_unix_s": None,
            }
            | changes
        ).encode()
        digest = hashlib.sha256(certificate).hexdigest()
        files = dict.fromkeys(REQUIRED, FileEntry("0" * 64, 1))
        files[CERTIFICATE] = FileEntry(digest, len(certificate))
        manifest = encode_manifest(
            Manifest(task=task, labels=LABELS, files=files, max_tokens=8, vector_size=4)
        )
        self.blobs |= {digest: certificate, bundle_id(manifest): manifest}
        return bundle_id(manifest)

    def metadata(self, name: str) -> bytes:
        raise BundleError(name)

    def open_blob(self, sha256: str) -> tuple[BinaryIO, int]:
        if sha256 not in self.blobs:
            raise BundleError(sha256)
        return io.BytesIO(self.blobs[sha256]), len(self.blobs[sha256])

    def trusted_root(self) -> bytes:
        return b""


@dataclass
class Watched:
    """A log, its watch, and what the nodes hear."""

    log: SqliteLog
    state: SqliteState
    shelf: Shelf
    bundle: str
    now: list[float] = field(default_factory=lambda: [1_000_000.0])

    def watch(self) -> ContractWatch:
        """As a process that has just taken the lease."""
        contracts = {TASK: Contract()}
        return ContractWatch(self.log, self.state, self.shelf, contracts, lambda: self.now[0])

    def standing(self) -> BundleStanding | None:
        advice = SharedAdvice(self.state)
        advice.refresh()
        return advice.standings.get(self.bundle)

    def rows(self) -> int:
        found = self.standing()
        return 0 if found is None else found.rows

    def add(
        self, count: int, *, right: bool = True, labelled: bool = True, **changes: object
    ) -> None:
        """Audited rows of the bundle on which student and teacher agree, or do not."""
        teacher = label(LABELS[0] if right else LABELS[2]) if labelled else None
        audit = {
            "node": "n1", "bundle": self.bundle, "kind": RecordKind.AUDIT, "coin": True,
            "confidence": 0.95, "threshold": 0.8, "audit_rate": 0.1, "propensity": 0.1,
        } | changes  # fmt: skip
        self.log.append([NewRow(record(**audit), teacher) for _ in range(count)])


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    now, shelf = [1_000_000.0], Shelf()
    log = SqliteLog(tmp_path / "log.db", now=lambda: now[0])
    state = SqliteState(tmp_path / "state.db")
    yield Watched(log, state, shelf, shelf.publish(), now)
    log.close()
    state.close()


def test_agreeing_audits_change_nothing_for_the_nodes(watched: Watched) -> None:
    """The night's certificate stands while nothing speaks against it."""
    watched.add(50)

    watched.watch().step()

    directive = _advise(watched)
    assert (50, False, 0.0) == (
        watched.rows(),
        directive.certificate_revoked,
        directive.threshold_floor,
    )


def test_a_student_that_errs_loses_its_certificate(watched: Watched) -> None:
    """Nodes hear it at their next check-in: certified=False, a higher threshold, a night asked."""
    watched.add(400, right=False)

    watched.watch().step()

    standing, directive = watched.standing(), _advise(watched)
    assert standing is not None
    assert ("revoked", True) == (standing.standing, standing.night)
    assert directive.certificate_revoked
    assert directive.threshold_floor > 0.95  # where the errors were
    assert directive.audit_rate > 0.0


def test_a_slice_that_errs_is_withdrawn_alone(watched: Watched) -> None:
    """Nodes hear which; a restart of the watch in between changes nothing."""
    legal = {"name": "legal", "threshold": 0.85, "rows": 400, "inherited": False}
    watched.bundle = watched.shelf.publish(slices=[legal])
    for _ in range(20):
        watched.add(25)
        watched.add(1, right=False, slice_name="legal", text="a will")
        watched.watch().step()

    standing, directive = watched.standing(), _advise(watched)
    assert standing is not None
    assert [("legal", "revoked")] == [(s.name, s.standing) for s in standing.slices]
    assert (False, (SliceOrder("legal", math.inf),)) == (
        directive.certificate_revoked,
        directive.revoked_slices,
    )
    assert (True, ["legal"]) == (standing.night, [*last_changes(watched.state, TASK)])


def test_labels_that_no_student_knows_are_heard_of_at_once(watched: Watched) -> None:
    """And the night learns from which row on traffic is new; also after the next restart."""
    watched.bundle = watched.shelf.publish(new_label_bound=0.05)
    watched.add(100)
    asked = {"kind": RecordKind.ESCALATION, "coin": False, "confidence": 0.2, "propensity": 1.0}
    made = [record(node="n1", bundle=watched.bundle, audit_rate=0.1, **asked) for _ in range(30)]
    new = TeacherLabel("scripted", "p1", ("a new one",), (-0.1,))
    watched.log.append([NewRow(replace(one, text="a new text"), new) for one in made])

    watched.watch().step()
    watched.watch().step()

    standing, changed = watched.standing(), last_changes(watched.state, TASK)[""]
    assert standing is not None
    assert ("revoked", "new_labels") == (standing.standing, standing.cause)
    assert 100 < changed < 130


def test_other_bundles_are_not_advised(watched: Watched) -> None:
    """A node that has gone on to the next student must not suffer for the last."""
    watched.add(400, right=False)
    watched.watch().step()

    assert Directive() == _advise(watched, bundle="c" * 64)


def test_a_row_counts_once_through_restarts(watched: Watched) -> None:
    """Progress and accounts are one value: a crash repeats a step, never half of one."""
    watched.add(30)
    watched.watch().step()
    watched.add(20)

    for _ in range(3):
        watched.watch().step()

    assert 50 == watched.rows()


def test_a_row_counts_when_its_label_has_come(watched: Watched) -> None:
    """Spooled audits are labelled later; silence in between must not look like agreement."""
    watched.add(3, labelled=False)
    watch = watched.watch()
    watch.step()
    before = watched.rows()
    for row in watched.log.unlabelled(10):
        watched.log.attach(row.sequence, label())

    watched.watch().step()

    assert (0, 3) == (before, watched.rows())


def test_a_label_that_never_comes_counts_as_an_error(watched: Watched) -> None:
    """Else a teacher that fails on hard inputs would make the student look good."""
    watched.add(400, labelled=False)
    watched.watch().step()
    watched.now[0] += 4 * 86_400.0

    watch = watched.watch()
    watch.step()

    standing = watched.standing()
    assert standing is not None
    assert (400, "revoked") == (standing.rows, standing.standing)


def test_a_teacher_that_contradicts_itself_is_found_while_it_happens(watched: Watched) -> None:
    """Its change of mind is no error of the student, whichever process holds the lease."""
    watched.add(1, text="again")
    watched.watch().step()
    watched.add(400, right=False, text="again")

    watched.watch().step()

    standing = watched.standing()
    assert standing is not None
    assert (1, "night") == (standing.rows, standing.standing)
    saved = json.loads(watched.state.get("watch/state") or b"{}")
    assert 400 == saved["monitors"][watched.bundle]["counts"]["contradiction"]


def test_a_forgotten_row_is_no_longer_waited_for(watched: Watched) -> None:
    """A person's right goes before the statistics."""
    made = record(
        node="n1", bundle=watched.bundle, kind=RecordKind.AUDIT, coin=True, subject="p",
        confidence=0.95, audit_rate=0.1, propensity=0.1,
    )  # fmt: skip
    watched.log.append([NewRow(made)])
    watch = watched.watch()
    watch.step()
    watched.log.forget("p")

    watch.step()

    saved = json.loads(watched.state.get("watch/state") or b"{}")
    assert {} == saved["waiting"]


def test_rows_of_bundles_that_were_never_published_are_passed_over(watched: Watched) -> None:
    """A node may name any bundle; only signed ones have a contract."""
    watched.log.append([NewRow(record(node="n1", bundle="f" * 64), label()) for _ in range(5)])

    assert not watched.watch().step()
    assert watched.standing() is None


def test_a_long_log_is_taken_in_pieces(watched: Watched) -> None:
    """A gateway that was away for a day does not stop for a minute."""
    watched.add(1100)
    watch = watched.watch()

    assert [True, False] == [watch.step(), watch.step()]
    assert 1100 == watched.rows()


def test_a_bundle_without_certificate_is_watched_without_one(watched: Watched) -> None:
    """Not certifiable is an answer; drift is seen all the same."""
    bundle = watched.shelf.publish(threshold=None)

    published = read_published(watched.shelf, bundle, TASK)

    assert published is not None
    assert LABELS == published.labels
    found = published.certificate
    assert (False, math.inf, math.inf) == (found.certified, found.threshold, found.expires_unix_s)


@pytest.mark.parametrize("damage", ["missing", "garbage", "other task"])
def test_what_is_no_bundle_of_the_task_has_no_certificate(watched: Watched, damage: str) -> None:
    """Whatever lies under the digest a node named."""
    bundle = watched.shelf.publish(task="other" if damage == "other task" else TASK)
    if damage == "missing":
        del watched.shelf.blobs[bundle]
    elif damage == "garbage":
        watched.shelf.blobs[bundle] = b"\x00garbage"

    assert read_published(watched.shelf, bundle, TASK) is None


def _advise(watched: Watched, bundle: str = "") -> Directive:
    advice = SharedAdvice(watched.state)
    advice.refresh()
    status = NodeStatus(task=TASK, bundle=bundle or watched.bundle)
    return advice.advise(Directive(), status)
