"""The way of a request, written once for both clients.

A flow is a generator: it yields what to ask the cloud, is sent the outcomes, and returns the
answers. It never waits itself, so the blocking client and the awaiting one drive the same code.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from understudy.edge.engine import Ask, Engine
from understudy.edge.options import Request
from understudy.edge.ports import Outcome
from understudy.types.answer import Answer
from understudy.types.decision import Reason
from understudy.types.errors import DeadlineError, LinkDownError
from understudy.types.records import EscalationRecord

BATCH = 64
_RETRY_LEFT_S = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask the cloud.

    Attributes:
        records: About what; one record is a `Predict`, more are a `PredictBatch`.
        timeout_s: What is left of the budget.
        traceparent: W3C trace context.
        pause_s: Wait so long first.
    """

    records: tuple[EscalationRecord, ...]
    timeout_s: float
    traceparent: str
    pause_s: float = 0.0


Flow = Generator[Call, Sequence[Outcome], list[Answer]]


def answer_or_flow(engine: Engine, text: str, request: Request) -> Answer | Flow:
    """The answer to one text, or the rest of its way where the teacher must be asked."""
    ask = engine.ask(text, request)
    answer = engine.answer_alone(ask)
    return _settled(engine, [ask], [None]) if answer is None else answer


def answer_flow(engine: Engine, texts: Sequence[str], request: Request) -> Flow:
    """Answers texts in their order, within one budget."""
    asks = engine.ask_many(texts, request)
    return _settled(engine, asks, [engine.answer_alone(ask) for ask in asks])


def _settled(engine: Engine, asks: Sequence[Ask], answers: list[Answer | None]) -> Flow:
    """Asks the teacher where there is no answer yet."""
    unsure = [place for place, answer in enumerate(answers) if answer is None]
    for places in _batches(unsure):
        batch = [asks[place] for place in places]
        outcomes = yield from _ask_teacher(engine, batch)
        for place, ask, outcome in zip(places, batch, outcomes, strict=True):
            answers[place] = engine.settle(ask, outcome)
    return [answer for answer in answers if answer is not None]


def _ask_teacher(
    engine: Engine, batch: Sequence[Ask]
) -> Generator[Call, Sequence[Outcome], Sequence[Outcome | Reason]]:
    """Asks unless something speaks against it; a link that dropped while idle is tried again."""
    obstacle = engine.obstacle(batch[0])
    if obstacle is not None:
        return [obstacle] * len(batch)
    outcomes = yield from _ask_once(engine, batch)
    left = batch[0].time_left_s()
    if isinstance(outcomes[0], LinkDownError) and left > _RETRY_LEFT_S and engine.circuit.healthy:
        pause = random.uniform(0.01, 0.04)  # noqa: S311 - spreads a fleet, guards nothing
        outcomes = yield from _ask_once(engine, batch, pause)
    engine.learn(outcomes)
    return outcomes


def _ask_once(
    engine: Engine, batch: Sequence[Ask], pause_s: float = 0.0
) -> Generator[Call, Sequence[Outcome], Sequence[Outcome]]:
    """One call within what is left, less what the way home takes on this machine now."""
    first = batch[0]
    left_s = first.time_left_s() - pause_s
    kept_s = engine.margin.of(left_s)
    records = tuple(ask.record for ask in batch if ask.record is not None)
    timeout_s = max(0.001, left_s - kept_s)
    outcomes = yield Call(records, timeout_s, first.request.traceparent, pause_s)
    if isinstance(outcomes[0], DeadlineError):
        engine.margin.note(kept_s - first.time_left_s())
    return outcomes


def _batches(places: Sequence[int]) -> Iterator[Sequence[int]]:
    return (places[start : start + BATCH] for start in range(0, len(places), BATCH))
