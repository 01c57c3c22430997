r"""Over-the-air students: a persisted state machine that a power cut cannot confuse.

    IDLE > CHECK > DOWNLOAD > VERIFY > STAGE > SELFTEST > ACTIVATE > PROBATION > COMMIT
                                                               \______\_> ROLLBACK

The record on disk names what is about to be done; doing it twice is doing it once. Faults of the
link or the disk pause the update, faults of the bundle end it and it is not tried again, and
neither ever touches the student that answers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.trust import SignedOffer, Trust
from understudy.edge.updater_files import Bandwidth, BlobFolder, Transfer
from understudy.edge.updater_install import Installer
from understudy.edge.updater_ports import Link, RunningStudent, UpdateSettings
from understudy.edge.updater_probation import Judgement, ProbationCounters, ProbationRules, judge
from understudy.edge.updater_selftest import SelfTestRules, self_test
from understudy.edge.updater_state import MAX_STARTS, Current, Leadership, Record, StateFolder, boot
from understudy.edge.updater_window import UpdateWindow
from understudy.types.errors import BundleError, DigestError, LinkError, UnderstudyError
from understudy.types.release import Directive, UpdateState

__all__ = [
    "Link",
    "ProbationCounters",
    "ProbationRules",
    "RunningStudent",
    "SelfTestRules",
    "UpdateSettings",
    "UpdateWindow",
    "Updater",
    "boot",
]

_PROBATION_PAUSE_S = 1.0
_FOLLOW_PAUSE_S = 2.0
_LONGEST_FAILURE = 500
_FETCHING = {UpdateState.DOWNLOAD, UpdateState.VERIFY, UpdateState.STAGE}


class Updater:
    """Drives one node's updates; `step` from one thread, `close` from any."""

    def __init__(
        self,
        directory: Path | str,
        root: bytes,
        link: Link,
        student: RunningStudent,
        settings: UpdateSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Opens the state folder; asks nobody yet. The process calls `boot` before.

        Args:
            directory: The node's state folder, made when missing.
            root: TUF root metadata where trust begins, from configuration or enrolment.
            link: The cloud.
            student: The client that answers.
            settings: How to update.
            clock: Seconds since 1970.
            chance: A number in [0, 1) that spreads a fleet's check-ins.

        Raises:
            OSError: If the folder cannot be made.
        """
        self._settings = settings = settings or UpdateSettings()
        self._folder = StateFolder(Path(directory))
        self._link = link
        self._student = student
        self._clock = clock
        self._chance = chance
        self._closing = threading.Event()
        self._leadership = Leadership(self._folder.directory)
        self._heard_unix_s = 0.0
        self._answered = True  # until a check-in fails
        home = self._folder.directory
        trust = Trust(home / "trust", root, link, clock=clock, timeout_s=settings.timeout_s)
        bandwidth = Bandwidth(settings.bytes_per_s, pause=self._closing.wait)
        blobs = BlobFolder(home / "blobs", link, bandwidth, self._must_stop, settings.timeout_s)
        self._installer = Installer(self._folder, trust, blobs, use_deltas=settings.use_deltas)
        self.transfer: Transfer = blobs.transfer
        self._actions: dict[UpdateState, Callable[[Record], Record]] = {
            UpdateState.IDLE: self._wake,
            UpdateState.CHECK: self._check,
            UpdateState.DOWNLOAD: self._download,
            UpdateState.VERIFY: self._verify,
            UpdateState.STAGE: self._stage,
            UpdateState.SELFTEST: self._selftest,
            UpdateState.ACTIVATE: self._activate,
            UpdateState.PROBATION: self._watch,
            UpdateState.COMMIT: self._commit,
            UpdateState.ROLLBACK: self._roll_back,
        }

    def step(self) -> UpdateState:
        """One transition, durable before it is acted on; nothing while it is not due.

        Where several processes share a folder, the first one updates and the others follow.

        Never raises for a fault of the cloud, the bundle or the disk: it pauses or gives up, and
        the next check-in says why.
        """
        if not self._leadership.held():
            return self._follow()
        record = self._folder.record()
        if self._clock() < record.due_unix_s:
            return record.state
        received = self.transfer.received
        try:
            after = self._actions[record.state](record)
        except BundleError as error:
            after = self._after_bad_bundle(record, error)
        except (UnderstudyError, OSError) as error:
            progress = self.transfer.received > received
            after = self._after_bad_luck(record, error, progress=progress)
        return self._persist(after).state

    def run_until_idle(self) -> UpdateState:
        """Steps until there is nothing to do now; returns where it stands."""
        while True:
            state = self.step()
            if state is UpdateState.IDLE or self.due_in_s() > 0 or self._closing.is_set():
                return state

    def due_in_s(self) -> float:
        """Seconds until `step` has something to do."""
        if not self._leadership.held():
            return _FOLLOW_PAUSE_S
        return max(0.0, self._folder.record().due_unix_s - self._clock())

    def check_now(self) -> None:
        """Makes the next `step` due at once; only an idle updater is hurried."""
        self._heard_unix_s = 0.0
        record = self._folder.record()
        if record.state is UpdateState.IDLE and self._leadership.held():
            self._folder.persist(replace(record, due_unix_s=0.0))

    def close(self) -> None:
        """Ends a download in flight; what arrived is kept."""
        self._closing.set()

    def farewell(self, timeout_s: float) -> None:
        """The last check-in, when no step follows; raises `UnderstudyError` if it fails."""
        if self._answered and self._student.status().requests:
            record = self._folder.record()
            self._check_in(record, record.state, timeout_s)

    @property
    def record(self) -> Record:
        """Where the update stands, for people and metrics."""
        return self._folder.record()

    def _follow(self) -> UpdateState:
        """What another process than the leader does: swaps when it has, and hears the cloud."""
        record, current = self._folder.record(), self._folder.current()
        with suppress(UnderstudyError, OSError):
            if current is not None and current.bundle != self._student.status().bundle:
                self._student.swap(read_bundle(self._folder.slot(current.slot)))
            if self._clock() >= self._heard_unix_s:
                self._heard_unix_s = self._clock() + self._settings.check_in_s
                self._heard_unix_s = self._next_check_in(self._check_in(record, record.state))
        return UpdateState.IDLE

    # The actions, in the order of the states. Each returns the record of what comes next.

    def _wake(self, record: Record) -> Record:
        return replace(record, state=UpdateState.CHECK)

    def _check(self, record: Record) -> Record:
        directive = self._check_in(record, UpdateState.IDLE)
        next_unix_s = self._next_check_in(directive)
        rest = replace(
            record,
            state=UpdateState.IDLE,
            failures=0,
            due_unix_s=next_unix_s,
            check_in_unix_s=next_unix_s,
        )
        if not directive.target:
            return rest
        offer = self._installer.offer(
            directive.target, self._settings.channel, record.committed, again=False
        )
        if self._has(offer) or self._is_denied(offer, record):
            return rest
        same = offer.target == record.target
        return replace(
            rest,
            state=UpdateState.DOWNLOAD,
            target=offer.target,
            bundle=offer.bundle,
            sequence=offer.sequence,
            attempts=0,
            failures=record.failures if same else 0,
            due_unix_s=0.0,
        )

    def _download(self, record: Record) -> Record:
        wait_s = self._settings.window.opens_in_s(self._clock())
        if wait_s > 0:
            return self._wait(record, wait_s)
        offer = self._installer.offer(
            record.target, self._settings.channel, record.committed, again=True
        )
        self._installer.download(offer)
        return replace(record, state=UpdateState.VERIFY, failures=0)

    def _verify(self, record: Record) -> Record:
        self._installer.verify(record.bundle)
        return replace(record, state=UpdateState.STAGE)

    def _stage(self, record: Record) -> Record:
        self._installer.stage(record.bundle)
        return replace(record, state=UpdateState.SELFTEST, attempts=0)

    def _selftest(self, record: Record) -> Record:
        # A machine that dies in the self-test every time must not try for ever.
        record = self._persist(replace(record, attempts=record.attempts + 1))
        if record.attempts > MAX_STARTS:
            raise BundleError(f"the self-test did not end in {MAX_STARTS} tries")
        current = self._folder.current()
        champion = self._folder.slot(current.slot) if current else None
        self_test(self._folder.slot(self._folder.spare_slot()), champion, self._settings.selftest)
        return replace(
            record,
            state=UpdateState.ACTIVATE,
            attempts=0,
            previous=current,
            baseline=self._student.probation(),
        )

    def _activate(self, record: Record) -> Record:
        record = self._persist(replace(record, attempts=record.attempts + 1))
        if record.attempts > MAX_STARTS:
            return self._condemned(record, f"not activated in {MAX_STARTS} tries")
        slot = self._slot_to_activate(record)
        bundle = read_bundle(self._folder.slot(slot))
        if bundle.id != record.bundle:
            raise BundleError("the slot holds another bundle than the one that was tested")
        self._student.swap(bundle)
        self._folder.point(Current(slot=slot, bundle=bundle.id, sequence=record.sequence))
        return replace(
            record,
            state=UpdateState.PROBATION,
            attempts=1,
            started_unix_s=0.0,
            probation_unix_s=self._clock(),
            promised_escalation=_promised_escalation(bundle),
        )

    def _watch(self, record: Record) -> Record:
        verdict = judge(
            self._student.probation(),
            record.baseline,
            self._settings.probation,
            elapsed_s=self._clock() - record.probation_unix_s,
            promised_escalation=record.promised_escalation,
        )
        match verdict.judgement:
            case Judgement.ROLLBACK:
                return self._condemned(record, verdict.reason)
            case Judgement.COMMIT:
                return replace(record, state=UpdateState.COMMIT)
            case Judgement.WAIT:
                return self._wait(record, _PROBATION_PAUSE_S)
            case _:
                assert_never(verdict.judgement)

    def _commit(self, record: Record) -> Record:
        if self._student.status().bundle != record.bundle:
            return self._condemned(record, "the student that answers is not the one on probation")
        self._installer.tidy()
        return Record(committed=max(record.committed, record.sequence), denied=record.denied)

    def _roll_back(self, record: Record) -> Record:
        """Back to the student before; the only student of a node stays, bad as it may be."""
        previous = record.previous
        if previous is not None:
            self._folder.point(previous)
            if self._student.status().bundle != previous.bundle:
                self._student.swap(read_bundle(self._folder.slot(previous.slot)))
        return Record(
            committed=record.committed,
            denied={**record.denied, record.bundle: record.sequence},
            failed_bundle=record.bundle,
            failure=record.failure,
        )

    # What the actions share.

    def _check_in(self, record: Record, state: UpdateState, timeout_s: float = 0.0) -> Directive:
        """Says how the node is; what is reported as loaded comes from the client itself."""
        status = replace(
            self._student.status(),
            channel=self._settings.channel,
            state=state,
            failed_bundle=record.failed_bundle,
            failure=record.failure[:_LONGEST_FAILURE],
        )
        self._answered = False
        directive = self._link.check_in(status, timeout_s or self._settings.timeout_s)
        self._answered = True
        self._student.obey(directive)
        return directive

    def _next_check_in(self, directive: Directive) -> float:
        wanted = directive.next_check_in_s
        pause = wanted if wanted > 0 else self._settings.check_in_s
        return self._clock() + pause * (0.8 + 0.4 * self._chance())

    def _wait(self, record: Record, pause_s: float) -> Record:
        """Pauses in a long state, and goes on checking in: the cloud's word must be heard."""
        now = self._clock()
        if now >= record.check_in_unix_s:
            try:
                directive = self._check_in(record, record.state)
                record = replace(record, check_in_unix_s=self._next_check_in(directive))
            except LinkError:
                record = replace(record, check_in_unix_s=now + self._settings.check_in_s)
        return replace(record, due_unix_s=now + min(pause_s, self._settings.check_in_s))

    def _has(self, offer: SignedOffer) -> bool:
        """True if the offered bundle answers here; a newer offer of it raises our floor."""
        current = self._folder.current()
        if current is None or current.bundle != offer.bundle:
            return False
        if offer.sequence > current.sequence:
            self._folder.point(replace(current, sequence=offer.sequence))
        return True

    def _is_denied(self, offer: SignedOffer, record: Record) -> bool:
        """True if it failed here, unless the publisher signed a newer offer to try it again."""
        failed_at = record.denied.get(offer.bundle)
        return failed_at is not None and not (offer.retry and offer.sequence > failed_at)

    def _slot_to_activate(self, record: Record) -> str:
        """The spare slot, or the current one when the pointer was moved just before a cut."""
        current = self._folder.current()
        if current is not None and current.bundle == record.bundle:
            return current.slot
        return self._folder.spare_slot()

    def _must_stop(self) -> bool:
        return self._closing.is_set() or self._settings.window.opens_in_s(self._clock()) > 0

    def _persist(self, record: Record) -> Record:
        self._folder.persist(record)
        return record

    def _condemned(self, record: Record, reason: str) -> Record:
        return replace(record, state=UpdateState.ROLLBACK, failure=reason, due_unix_s=0.0)

    def _after_bad_bundle(self, record: Record, error: BundleError) -> Record:
        """A bundle that must not be used: given up for good once its bytes were what was signed."""
        if record.state in {UpdateState.ACTIVATE, UpdateState.PROBATION}:
            return self._condemned(record, str(error))
        if isinstance(error, DigestError) and record.state in _FETCHING:
            return self._after_bad_luck(record, error, progress=False)
        failed = replace(record, state=UpdateState.IDLE, failure=str(error))
        if record.state in {UpdateState.VERIFY, UpdateState.STAGE, UpdateState.SELFTEST}:
            denied = {**record.denied, record.bundle: record.sequence}
            failed = replace(failed, denied=denied, failed_bundle=record.bundle)
        return self._paused(failed)

    def _after_bad_luck(self, record: Record, error: Exception, *, progress: bool) -> Record:
        """The link or the disk failed: the same again, later; at once when bytes came through."""
        record = replace(record, failure=str(error) or type(error).__name__)
        if record.state in _FETCHING:
            # Whatever is missing or damaged now is fetched again; what is whole is not.
            record = replace(record, state=UpdateState.DOWNLOAD)
        if progress and isinstance(error, LinkError):
            return replace(record, failures=0)
        return self._paused(record)

    def _paused(self, record: Record) -> Record:
        pause = self._settings.pause_s * 2 ** min(record.failures, 20)
        pause = min(pause, self._settings.longest_pause_s) * (0.8 + 0.4 * self._chance())
        return replace(record, failures=record.failures + 1, due_unix_s=self._clock() + pause)


def _promised_escalation(bundle: Bundle) -> float:
    """Share of requests that a bundle's own certificate expects to escalate."""
    certificate = bundle.certificate
    return 1.0 - certificate.keep_rate if certificate.certified else 1.0
