"""The whole loop with real processes: cloud on Ray Serve, edge with an embedded client, nights.

Tests run in the order they stand: each night follows the one before.
"""

from __future__ import annotations

import pytest

from simulators.loop import LATE, Loop
from understudy.cli.output import progress
from understudy.cli.stream import play
from understudy.types.answer import Source
from understudy.types.decision import Reason

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_second_nights_bundle_is_the_one_that_answers(loop: Loop) -> None:
    # Systems that learn once and never again look alive for a day; the second round tells.
    first = loop.world.state().bundle

    with progress("days", sum(map(len, loop.data.days[:2]))) as bar:
        played = play(loop.data.days[:2], loop.world, bar)

    answering = loop.world.ask(loop.data.days[2][0]).bundle
    bundles = [first, *(night.bundle for night in played.nights)]
    assert 3 == len(set(bundles))
    assert bundles[-1] == answering == loop.world.state().bundle
    assert [] == [o for o in played.seen if not o.answer.label]


def test_a_class_of_the_second_day_is_answered_by_the_student_afterwards(loop: Loop) -> None:
    rows = [row for row in loop.data.days[2] if row.label == LATE]

    answers = [loop.world.edge.ask(row.text, private=True) for row in rows]

    right = [a for a in answers if a.label == LATE]
    assert {Source.STUDENT} == {a.source for a in answers}
    assert len(right) >= len(rows) / 2


def test_every_request_is_answered_while_the_cloud_is_killed_in_mid_stream(loop: Loop) -> None:
    # Half the day, then the other half and requests of intents that nobody was taught.
    rows = loop.data.days[2]
    before = [loop.world.ask(row) for row in rows[: len(rows) // 2]]

    loop.world.kill_cloud()
    after = [loop.world.ask(row) for row in (*rows[len(rows) // 2 :], *loop.foreign)]

    assert [] == [a for a in (*before, *after) if not a.label]
    assert {Source.STUDENT} == {a.source for a in after}
    unsure = [a for a in after if a.degraded]
    assert unsure
    assert {a.reason for a in unsure} <= {Reason.LINK_DOWN, Reason.THROTTLED, Reason.DEADLINE}


def test_what_could_not_be_asked_is_in_the_log_once_the_cloud_is_back(loop: Loop) -> None:
    loop.world.logged()

    loop.world.start_cloud()
    loop.world.settle()

    kinds = {row.record.kind.value for row in loop.world.logged().values()}
    assert "degraded" in kinds
