"""What lives as long as a client: the student in use, the threads, the link, the state on disk.

`EdgeClient` and `AsyncEdgeClient` are two thin faces over one `Runtime`. Its composition root is
`opening.open_runtime`.
"""

from __future__ import annotations

import atexit
import contextlib
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from understudy.edge.engine import Ask, Engine
from understudy.edge.events import Event, EventKind
from understudy.edge.flow import Call, Flow, answer_flow, answer_or_flow
from understudy.edge.loaded import Loaded, load
from understudy.edge.options import PredictOptions, request_of
from understudy.edge.orders import Orders
from understudy.edge.ports import Cloud, Node, Outcome
from understudy.edge.status import ClientStatus
from understudy.edge.telemetry import LOG, Fault
from understudy.edge.uploader import Uploader
from understudy.edge.workers import Worker, leak, on_fork, trim_memory
from understudy.types.answer import Answer, Source
from understudy.types.decision import Reason
from understudy.types.errors import LinkDownError, TeacherError, UnderstudyError
from understudy.types.records import TeacherLabel

if TYPE_CHECKING:
    from understudy.edge.bundle import Bundle

ATEXIT_S = 1.0
WITHOUT_NODE_S = 1.0


class Runtime:
    """The inside of a client; thread-safe. Made by `opening`, closed once.

    Args:
        loaded: The student to begin with.
        engine: The deciding parts.
        uploader: Queue and spool.
        link: The cloud, connected when it is first needed.
        make_node: Builds the update thread's view, or None when there is nothing to update from.
        audit_key: Secret of the node.
        orders: The cloud's orders on disk.
    """

    def __init__(
        self,
        loaded: Loaded,
        engine: Engine,
        uploader: Uploader,
        link: CloudHolder,
        *,
        make_node: Callable[[Runtime], Node | None] | None,
        audit_key: bytes,
        orders: Orders,
    ) -> None:
        self.config, self.telemetry, self.events = engine.config, engine.telemetry, engine.events
        self.engine, self.uploader, self.link = engine, uploader, link
        self.request = request_of(self.config, {})
        self.champion: Loaded | None = None
        self.shadow_rate = 0.0
        self.orders = orders
        self._loaded = loaded
        self._audit_key = audit_key
        self._make_node = make_node
        self._node: Node | None = None
        self._closed = False
        self._swap_lock = threading.Lock()
        self._upload = Worker(
            "understudy.uploader", uploader.step, uploader.wait,
            wake=uploader.wake, telemetry=self.telemetry,
        )  # fmt: skip
        self._pulse = threading.Event()
        self._update = Worker(
            "understudy.updater", self._update_step, self._update_wait,
            wake=self._wake_update, telemetry=self.telemetry,
        )  # fmt: skip
        self._atexit = _close_at_exit(self)
        on_fork(self, "after_fork")

    @property
    def loaded(self) -> Loaded:
        """The student in use; one read, no lock."""
        return self._loaded

    def start(self) -> None:
        """Starts the threads that have something to do; cheap to repeat."""
        if self._closed:
            return
        self._upload.start()
        if self._make_node is not None:
            self._update.start()

    def swap(self, bundle: Bundle) -> None:
        """Loads a student, checks it, and lets it answer from the next request on.

        Raises:
            BundleError: If it cannot be loaded; the present one stays.
        """
        with self._swap_lock:
            old = self._loaded
            new = load(bundle, self.config, self._audit_key, self.config.audit.rate)
            new = new.directed(self.orders.of(bundle.id))
            # Only a fleet can ask for the champion's opinion; nobody else keeps two in memory.
            self.champion = old if self._make_node is not None else None
            self._loaded = new
        del old
        trim_memory()
        self.engine.cache.clear()
        self.events.emit(Event(EventKind.SWAPPED, bundle=new.bundle.id))

    def change(self, loaded: Callable[[Loaded], Loaded]) -> None:
        """Replaces the student's policy."""
        with self._swap_lock:
            self._loaded = loaded(self._loaded)

    def begin(self, text: str, options: PredictOptions) -> Answer | Flow:
        """The answer to a text, or the rest of its way; the caller drives it.

        Raises:
            InvalidValueError: If the text is no `str`, or an option is unknown or out of range.
        """
        request = request_of(self.config, options) if options else self.request
        self.start()
        return answer_or_flow(self.engine, text, request)

    def begin_many(self, texts: Sequence[str], options: PredictOptions) -> Flow:
        """The way of some texts to their answers; the caller drives it. Raises as `begin`."""
        request = request_of(self.config, options) if options else self.request
        self.start()
        return answer_flow(self.engine, texts, request)

    def cloud(self) -> Cloud:
        """The link.

        Raises:
            LinkDownError: If there is none, or no longer.
        """
        cloud = self.link.get()
        if cloud is None:
            raise LinkDownError("there is no link to the cloud")
        return cloud

    @contextlib.contextmanager
    def border(self, call: Call) -> Iterator[list[Outcome]]:
        """Where faults of the cloud end: inside, fill the list; what is raised fills it, too."""
        outcomes: list[Outcome] = []
        try:
            yield outcomes
        except UnderstudyError as error:
            outcomes[:] = [error] * len(call.records)
        except Exception as error:  # noqa: BLE001 - a bug of ours or of a foreign cloud
            self.telemetry.fault(Fault.INTERNAL)
            LOG.debug("understudy edge: %s at the border", type(error).__name__)
            outcomes[:] = [TeacherError("the call ended in an internal error")] * len(call.records)

    def shadow(self, ask: Ask, label: TeacherLabel) -> None:
        """Lets the champion answer in the shadow of a student on probation, later."""
        champion = self.champion
        if champion is None or champion.bundle.id == ask.loaded.bundle.id:
            return
        if random.random() >= self.shadow_rate:  # noqa: S311 - a sample, no secret
            return

        def run() -> None:
            logits = champion.student.run([ask.text]).logits[0]
            theirs = champion.bundle.manifest.labels[int(logits.argmax())]
            ask.loaded.record.shadowed(
                mine=ask.label == label.label, champions=theirs == label.label
            )

        self.uploader.later(run)

    def status(self) -> ClientStatus:
        """How the client is."""
        loaded, counted, spool = (
            self._loaded,
            self.telemetry.snapshot(),
            self.uploader.spool.stats(),
        )
        policy = loaded.policy
        return ClientStatus(
            task=self.config.task or loaded.bundle.manifest.task,
            bundle=loaded.bundle.id,
            cpu=loaded.bundle.cpu,
            mode=self.config.mode,
            certified=policy.certified
            and not policy.revoked
            and time.time() < loaded.expires_unix_s,
            threshold=max(policy.threshold, policy.threshold_floor),
            audit_rate=policy.audit_rate,
            gateway=self.config.gateway.address,
            requests=counted.requests,
            kept=counted.kept,
            escalated=counted.escalated,
            degraded=counted.degraded,
            audits=counted.audits,
            p50_ms=counted.latency.quantile(0.5),
            p99_ms=counted.latency.quantile(0.99),
            spool_rows=self.uploader.waiting(),
            spool_durable=spool.durable,
            access_denied=self.engine.circuit.refused,
            reasons=_by_reason(counted.answers),
            faults={kind.value: count for kind, count in counted.faults.items()},
            update=self._node.state if self._node is not None else "",
            threads=tuple(w.name for w in (self._upload, self._update) if w.running),
        )

    def flush(self, timeout_s: float) -> bool:
        """Sends what waits; True when nothing waits any more."""
        if not self.uploader.waiting():
            return True
        self.start()
        self.uploader.hurry()
        return self.uploader.wait_empty(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Ends threads and link; what waits is on disk, and counts are told. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._atexit)
        if self._node is not None:
            self._node.stop()
        end = time.monotonic() + timeout_s
        self._update.stop(timeout_s)
        node = None if self._update.running else self._node
        if node is not None:
            node.settle()
        self._upload.stop(max(0.0, end - time.monotonic()))
        if not self._upload.running:
            self.uploader.store()
        if node is not None:
            node.farewell(end - time.monotonic())
        if not self._upload.running:
            self.uploader.spool.close()
        self.link.close()

    def reconnect(self) -> None:
        """Uses the credentials that are on disk now."""
        self.link.renew()
        self.engine.circuit.credentials_changed()
        self.uploader.hurry()

    def check_for_update(self) -> None:
        """Makes the update thread check in at once."""
        if self._node is not None:
            self._node.hurry()
        self._pulse.set()

    def after_fork(self) -> None:
        """In a forked child: new locks, no threads, an own spool file, a new channel."""
        self._swap_lock = threading.Lock()
        self._pulse = threading.Event()
        self._node = None
        for part in (
            self._upload, self._update, self.uploader, self.telemetry, self.events, self.link,
            self.engine.cache, self.engine.circuit, self.engine.purse, self._loaded.record,
        ):  # fmt: skip
            part.after_fork()

    def forget(self, subject: str) -> int:
        """Deletes every record about a subject that has not left yet; returns how many."""
        return self.uploader.forget(self.engine.outbox.tag(subject))

    def __str__(self) -> str:
        state = "closed" if self._closed else self.config.mode.value
        bundle, requests = self._loaded.bundle, self.telemetry.snapshot().requests
        return f"{bundle.manifest.task} {bundle.id[:12]} {state}, {requests} requests"

    def _wake_update(self) -> None:
        self._pulse.set()

    def _update_step(self) -> None:
        if self._node is None and self._make_node is not None:
            self._node = self._make_node(self)
        if self._node is None:
            return
        try:
            self._node.step()
        except (UnderstudyError, OSError):
            self.telemetry.fault(Fault.UPDATE)

    def _update_wait(self, stopping: threading.Event) -> None:
        if stopping.is_set():
            return
        # A cloud of the product's own may have no check-in: then there is nothing to hurry for.
        self._pulse.wait(WITHOUT_NODE_S if self._node is None else self._node.due_in_s())
        self._pulse.clear()


class CloudHolder:
    """The link, made when it is first needed and anew after a fork or new credentials.

    Args:
        make: Connects; None when no cloud is configured.
    """

    def __init__(self, make: Callable[[], Cloud] | None) -> None:
        self._make = make
        self._cloud: Cloud | None = None
        self._lock = threading.Lock()

    @property
    def configured(self) -> bool:
        """True if there is a cloud to talk to."""
        return self._make is not None

    def get(self) -> Cloud | None:
        """The link; None when no cloud is configured."""
        if self._cloud is None and self._make is not None:
            with self._lock:
                if self._cloud is None:
                    self._cloud = self._make()
        return self._cloud

    def renew(self) -> None:
        """Connects anew at the next use, with credentials read afresh."""
        with self._lock:
            old, self._cloud = self._cloud, None
        _close(old)

    def close(self) -> None:
        """Closes the link; safe to repeat."""
        with self._lock:
            old, self._cloud, self._make = self._cloud, None, None
        _close(old)

    def after_fork(self) -> None:
        """A channel does not survive a fork; the parent's is left alone."""
        self._lock = threading.Lock()
        if self._cloud is not None:
            leak(self._cloud)
        self._cloud = None


def _close(cloud: Cloud | None) -> None:
    close = getattr(cloud, "close", None)
    if close is not None:
        close()


def _by_reason(answers: Mapping[tuple[Source, Reason], int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (_, reason), count in answers.items():
        counts[reason.value] = counts.get(reason.value, 0) + count
    return counts


def _close_at_exit(runtime: Runtime) -> Callable[[], None]:
    """Closes a forgotten client at the end of the process, within a second."""
    reference = weakref.ref(runtime)

    def close() -> None:
        alive = reference()
        if alive is not None:
            with contextlib.suppress(Exception):
                alive.close(ATEXIT_S)

    atexit.register(close)
    return close
