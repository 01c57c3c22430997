"""The client that a product embeds.

    with EdgeClient.open("edge.yaml") as client:
        answer = client.predict("the machine swallowed my card")

It always answers within its budget, and never raises for a fault of the cloud, the disk or an
update: those are reasons in the answer. Only mistakes in the calling code raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from understudy.edge.config import EdgeConfig
from understudy.edge.events import Listener
from understudy.edge.options import PredictOptions
from understudy.types.answer import Answer

if TYPE_CHECKING:
    from understudy.edge.bundle import Bundle
    from understudy.edge.flow import Call, Flow
    from understudy.edge.ports import Cloud, Outcome
    from understudy.edge.privacy import BeforeSend
    from understudy.edge.runtime import Runtime
    from understudy.edge.status import ClientStatus

CLOSE_S = 2.0


class EdgeClient:
    """A cascade in the product's process; thread-safe, one for the life of the process."""

    def __init__(self, runtime: Runtime) -> None:
        """Stores; use `open`."""
        self._runtime = runtime

    @classmethod
    def open(
        cls,
        source: EdgeConfig | Path | str,
        *,
        cloud: Cloud | None = None,
        before_send: BeforeSend | None = None,
    ) -> Self:
        """Loads the student; connects to nobody yet.

        Args:
            source: `edge.yaml`, a bundle's directory, or a configuration.
            cloud: A cloud to use in place of the configured gateway, such as one in this process.
            before_send: Sees each record before it leaves or is written to disk; returns what to
                send instead, or None. If it raises, nothing is sent.

        Raises:
            ConfigError: If the configuration is wrong; the message names the key.
            BundleError: If the student cannot be used.
        """
        from understudy.edge.opening import open_runtime

        return cls(open_runtime(source, cloud=cloud, before_send=before_send))

    def predict(self, text: str, **options: Unpack[PredictOptions]) -> Answer:
        """Answers one text within the budget.

        Args:
            text: Any `str`; what the student does not read is cut and `truncated` says so.
            options: `deadline_ms`, `mode`, `never_escalate`, `subject`, `slice_name`,
                `traceparent`, `on_correction`; see `PredictOptions`.

        Raises:
            InvalidValueError: If the text is no `str`, or an option is out of range.
        """
        found = self._runtime.begin(text, options)
        return found if isinstance(found, Answer) else self._drive(found)[0]

    def predict_many(self, texts: Sequence[str], **options: Unpack[PredictOptions]) -> list[Answer]:
        """Answers texts in their order, all of them within one budget.

        Raises:
            InvalidValueError: If a text is no `str`, or an option is out of range.
        """
        return self._drive(self._runtime.begin_many(tuple(texts), options))

    def status(self) -> ClientStatus:
        """How the client is."""
        return self._runtime.status()

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Sends what waits for the cloud; True when nothing waits any more."""
        return self._runtime.flush(timeout_s)

    def forget(self, subject: str) -> int:
        """Deletes every record about a subject that has not left yet; returns how many."""
        return self._runtime.forget(subject)

    def swap(self, bundle: Bundle) -> None:
        """Loads a student, checks it, and lets it answer from the next request on.

        Raises:
            BundleError: If it cannot be loaded; the present one stays.
        """
        self._runtime.swap(bundle)

    def check_for_update(self) -> None:
        """Checks in with the cloud now, and updates in the background if it says so."""
        self._runtime.check_for_update()

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Tells a listener of corrections, swaps and orders; call the result to stop.

        Listeners run in the client's threads; what they raise is counted and goes no further.
        """
        return self._runtime.events.listen(listener)

    @property
    def runtime(self) -> Runtime:
        """The inside, for telemetry exporters and the sidecar."""
        return self._runtime

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Ends the threads, tells the last counts; what waits stays on disk. Safe to repeat."""
        self._runtime.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EdgeClient {self._runtime}>"

    def _drive(self, flow: Flow) -> list[Answer]:
        """Asks what the flow wants to ask, until it has its answers."""
        try:
            call = next(flow)
            while True:
                call = flow.send(self._ask(call))
        except StopIteration as end:
            answers: list[Answer] = end.value
            return answers

    def _ask(self, call: Call) -> Sequence[Outcome]:
        if call.pause_s:
            time.sleep(call.pause_s)
        with self._runtime.border(call) as outcomes:
            cloud = self._runtime.cloud()
            if len(call.records) == 1:
                outcomes[:] = [
                    cloud.predict(call.records[0], call.timeout_s, traceparent=call.traceparent)
                ]
            else:
                outcomes[:] = cloud.predict_batch(
                    call.records, call.timeout_s, traceparent=call.traceparent
                )
        return outcomes
