"""The awaiting twin of the client: same surface, same flow, same answers.

    async with AsyncEdgeClient.open("edge.yaml") as client:
        answer = await client.predict("the machine swallowed my card")

The student runs in the loop's default executor, so that a long text does not hold the loop up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from understudy.edge.client import CLOSE_S
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
    from understudy.edge.transport import AsyncCloudLink


class AsyncEdgeClient:
    """A cascade in the product's process, for one event loop."""

    def __init__(self, runtime: Runtime, link: AsyncCloudLink | None = None) -> None:
        """Stores; use `open`."""
        self._runtime = runtime
        self._link = link

    @classmethod
    def open(
        cls,
        source: EdgeConfig | Path | str,
        *,
        cloud: Cloud | None = None,
        before_send: BeforeSend | None = None,
    ) -> Self:
        """Loads the student; connects to nobody yet. Arguments and errors as `EdgeClient.open`."""
        from understudy.edge.opening import open_async_link, open_runtime

        runtime = open_runtime(source, cloud=cloud, before_send=before_send)
        return cls(runtime, open_async_link(runtime.config) if cloud is None else None)

    async def predict(self, text: str, **options: Unpack[PredictOptions]) -> Answer:
        """Answers one text within the budget; see `EdgeClient.predict`."""
        # A text in a thread, so that a long one does not hold the loop up.
        found = await asyncio.to_thread(self._runtime.begin, text, options)
        return found if isinstance(found, Answer) else (await self._drive(found))[0]

    async def predict_many(
        self, texts: Sequence[str], **options: Unpack[PredictOptions]
    ) -> list[Answer]:
        """Answers texts in their order, within one budget; see `EdgeClient.predict_many`."""
        flow = await asyncio.to_thread(self._runtime.begin_many, tuple(texts), options)
        return await self._drive(flow)

    async def status(self) -> ClientStatus:
        """How the client is."""
        return self._runtime.status()

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Sends what waits for the cloud; True when nothing waits any more."""
        return await asyncio.to_thread(self._runtime.flush, timeout_s)

    async def forget(self, subject: str) -> int:
        """Deletes every record about a subject that has not left yet; returns how many."""
        return await asyncio.to_thread(self._runtime.forget, subject)

    async def swap(self, bundle: Bundle) -> None:
        """Loads a student and lets it answer from the next request on; see `EdgeClient.swap`."""
        await asyncio.to_thread(self._runtime.swap, bundle)

    async def check_for_update(self) -> None:
        """Checks in with the cloud now, and updates in the background if it says so."""
        self._runtime.check_for_update()

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Tells a listener of corrections, swaps and orders; it runs in the client's threads."""
        return self._runtime.events.listen(listener)

    @property
    def runtime(self) -> Runtime:
        """The inside, for telemetry exporters and the sidecar."""
        return self._runtime

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Ends the threads, tells the last counts; what waits stays on disk. Safe to repeat."""
        if self._link is not None:
            await self._link.close()
        await asyncio.to_thread(self._runtime.close, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncEdgeClient {self._runtime}>"

    async def _drive(self, flow: Flow) -> list[Answer]:
        """Asks what the flow wants to ask, until it has its answers."""
        outcomes: Sequence[Outcome] | None = None
        while True:
            # A generator may be continued in any thread, one at a time; its end must not cross a
            # future as StopIteration.
            step = await asyncio.to_thread(_advance, flow, outcomes)
            if isinstance(step, list):
                return step
            outcomes = await self._ask(step)

    async def _ask(self, call: Call) -> Sequence[Outcome]:
        if call.pause_s:
            await asyncio.sleep(call.pause_s)
        link = self._link
        with self._runtime.border(call) as outcomes:
            trace = call.traceparent
            if link is None:
                cloud = self._runtime.cloud()
                outcomes[:] = await asyncio.to_thread(
                    cloud.predict_batch, call.records, call.timeout_s, traceparent=trace
                )
            elif len(call.records) == 1:
                outcomes[:] = [
                    await link.predict(call.records[0], call.timeout_s, traceparent=trace)
                ]
            else:
                outcomes[:] = await link.predict_batch(
                    call.records, call.timeout_s, traceparent=trace
                )
        return outcomes


def _advance(flow: Flow, outcomes: Sequence[Outcome] | None) -> Call | list[Answer]:
    try:
        return next(flow) if outcomes is None else flow.send(outcomes)
    except StopIteration as end:
        answers: list[Answer] = end.value
        return answers
