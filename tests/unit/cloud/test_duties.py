"""One turn of what a single gateway process does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from simulators.cloud_gateway import LABELS, ScriptedTeacher, record
from understudy.cloud.config import Labelling
from understudy.cloud.duties import LEASE_S, Duties, Labeller
from understudy.cloud.log import EscalationLog, NewRow
from understudy.cloud.log.sqlite import SqliteLog
from understudy.cloud.metrics import Metrics
from understudy.cloud.state import SharedState, SqliteState
from understudy.cloud.watch import ContractWatch
from understudy.types.decision import RecordKind


class Watch:
    """So many steps are left until it has seen the whole log."""

    def __init__(self, left: int, beside: Callable[[], None] = lambda: None) -> None:
        self.left = left
        self._beside = beside

    def step(self) -> bool:
        self._beside()
        self.left -= 1
        return self.left > 0

    def forget(self) -> None:
        """Nothing is remembered here."""


@pytest.fixture
def state(tmp_path: Any) -> Any:
    opened = SqliteState(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Any) -> Any:
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


def duties(log: EscalationLog, state: SharedState, watch: Watch, now: list[float]) -> Duties:
    return Duties(
        log=log,
        state=state,
        watch=cast("ContractWatch", watch),
        labeller=Labeller(log, ScriptedTeacher(), Labelling.AUDITS, Metrics()),
        labels=lambda _: LABELS,
        retention_s=1e9,
        now=lambda: now[0],
    )


async def test_a_turn_sees_the_log_to_its_end(log: EscalationLog, state: SharedState) -> None:
    """A busy cloud logs more between two turns than one step takes; drift must not wait in line."""
    watch = Watch(left=5)

    await duties(log, state, watch, [1000.0]).turn()

    assert 0 == watch.left


async def test_a_turn_labels_every_audit_that_waits(log: EscalationLog, state: SharedState) -> None:
    """The certificate's evidence is as old as its labels."""
    # What an outage left behind is not asked about, and must not stand in the audits' way.
    log.append([NewRow(record(kind=RecordKind.DEGRADED)) for _ in range(100)])
    audits = [record(text=f"audit {i}", kind=RecordKind.AUDIT, coin=True) for i in range(100)]
    log.append([NewRow(audit) for audit in audits])

    await duties(log, state, Watch(left=1), [1000.0]).turn()

    assert {"degraded"} == {row.record.kind.value for row in log.unlabelled(1000)}


async def test_a_turn_ends_while_its_lease_holds(log: EscalationLog, state: SharedState) -> None:
    """Else two processes would watch at once."""
    now = [1000.0]

    def pass_time() -> None:
        now[0] += LEASE_S / 4

    watch = Watch(left=100, beside=pass_time)

    await duties(log, state, watch, now).turn()

    assert 98 == watch.left
