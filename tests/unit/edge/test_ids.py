"""Rules of request ids: sortable, unguessable, never twice, forks included."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from typing import Any

from understudy.edge.ids import new_request_id


def test_an_id_is_a_version_7_uuid_that_begins_with_the_time() -> None:
    """Logs sort by it, and any UUID library reads it."""
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_request_id())
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after


def test_no_id_comes_twice() -> None:
    """The event id is the idempotency key everywhere."""
    assert len({new_request_id() for _ in range(10_000)}) == 10_000


def _draw(found: Any) -> None:
    found.put([new_request_id() for _ in range(200)])


def test_forked_children_draw_their_own() -> None:
    """Random digits in stock at the fork must not be used by both."""
    new_request_id()
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=_draw, args=(found,)) for _ in range(3)]
    for child in children:
        child.start()
    ids = [drawn for _ in children for drawn in found.get(timeout=30)]
    for child in children:
        child.join()
    lots = {one[19:] for one in [*ids, *(new_request_id() for _ in range(200))]}

    assert len(lots) == 800
