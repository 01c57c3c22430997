"""The purse: a budget that holds on any traffic and is spent on the least sure."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from simulators.bundles import build_bundle
from understudy.edge import EdgeClient, EdgeConfig
from understudy.edge.config import AuditConfig, ContractConfig, SpoolConfig, UpdaterConfig
from understudy.edge.ports import Outcome, Receipt
from understudy.edge.purse import RECENT, Purse
from understudy.router.budget import Spending
from understudy.types.contract import Precedence
from understudy.types.decision import NEVER_KEEP
from understudy.types.records import EscalationRecord, TeacherLabel
from understudy.types.release import Directive, NodeStatus


class Teacher:
    """A cloud in memory that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(
        self, record: EscalationRecord, timeout_s: float, *, traceparent: str = ""
    ) -> TeacherLabel:
        assert timeout_s > 0
        assert not traceparent
        self.asked.append(record.text)
        return TeacherLabel("sim", "hash", ("refund", "card"), (-0.1, -2.4))

    def predict_batch(
        self, records: Sequence[EscalationRecord], timeout_s: float, *, traceparent: str = ""
    ) -> list[Outcome]:
        return [self.predict(r, timeout_s, traceparent=traceparent) for r in records]

    def report(self, records: Sequence[EscalationRecord], timeout_s: float) -> list[Receipt]:
        raise NotImplementedError

    def check_in(self, status: NodeStatus, timeout_s: float) -> Directive:
        raise NotImplementedError


def play(purse: Purse, confidences: Iterable[float]) -> list[bool]:
    """Whether each request asked."""
    asked = []
    for confidence in confidences:
        asked.append(confidence < purse.threshold)
        purse.see(confidence)
        purse.spend(spent=asked[-1])
    return asked


@pytest.mark.parametrize("scale", [1.0, 1e-6], ids=["spread-out", "all-near-zero"])
def test_the_least_sure_are_asked_about_whatever_the_scale_of_their_confidence(
    scale: float,
) -> None:
    draw = random.Random(3)  # noqa: S311 - chance, not secrets
    confidences = [scale * draw.random() for _ in range(4000)]
    asked = play(Purse(Spending(0.2)), confidences)

    mean = [
        sum(c for c, a in zip(confidences, asked, strict=True) if a is said)
        / max(1, sum(a is said for a in asked))
        for said in (True, False)
    ]
    assert sum(asked) == pytest.approx(800, abs=20)
    assert mean[0] < 0.35 * mean[1]


@pytest.mark.parametrize(
    "confidences",
    [
        pytest.param([0.0] * 900, id="never-sure"),
        pytest.param([1 - i / 900 for i in range(900)], id="ever-less-sure"),
        pytest.param([1.0] * 600 + [0.0] * 300, id="a-burst-after-a-calm"),
    ],
)
def test_no_traffic_spends_more_than_the_budget(confidences: list[float]) -> None:
    asked = play(Purse(Spending(0.1)), confidences)

    assert sum(asked) <= 0.1 * len(confidences) + 1 + 1 / 0.02
    assert sum(play(Purse(Spending(0.1)), [0.5] * 900)) <= 0.1 * 900 + 0.12 / 0.02


def test_an_early_lead_asks_early_and_no_more_in_all() -> None:
    draw = random.Random(5)  # noqa: S311 - chance, not secrets
    asked = play(Purse(Spending(0.2, 0.9, 1000)), [draw.random() for _ in range(1000)])

    assert sum(asked[:500]) > 2 * sum(asked[500:])
    assert 198 <= sum(asked) <= 202


def test_a_short_stream_spends_its_budget_too() -> None:
    draw = random.Random(7)  # noqa: S311 - chance, not secrets
    asked = play(Purse(Spending(0.2, 0.9, 200)), [draw.random() for _ in range(200)])

    assert 36 <= sum(asked) <= 42
    assert sum(asked[:100]) > 1.4 * sum(asked[100:])


def test_without_a_limit_nothing_is_kept_for_the_budget_s_sake() -> None:
    purse = Purse(Spending(1.0))
    asked = play(purse, [1.0] * 10)

    assert all(asked)
    assert purse.threshold == NEVER_KEEP


def test_what_is_remembered_does_not_grow_with_the_traffic() -> None:
    purse = Purse(Spending(0.5))
    play(purse, [i / 1e6 for i in range(2 * RECENT)])
    tracemalloc.start()
    try:
        play(purse, (i / 1e6 for i in range(20 * RECENT)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 100 * RECENT


def test_a_client_spends_its_budget_on_what_it_doubts_most(tmp_path: Path) -> None:
    build_bundle(tmp_path / "b", certified=False)
    teacher = Teacher()
    config = EdgeConfig(
        bundle=str(tmp_path / "b"),
        contract=ContractConfig(max_teacher_share=0.2, precedence=Precedence.BUDGET),
        audit=AuditConfig(rate=1e-9),
        spool=SpoolConfig(enabled=False),
        updater=UpdaterConfig(enabled=False),
        deadline_ms=10_000,
    )
    with EdgeClient.open(config, cloud=teacher) as client:
        for _ in range(60):
            client.predict("the machine swallowed my card")
            client.predict("qqq")

    assert 24 <= len(teacher.asked) <= 36
    assert {"qqq"} == set(teacher.asked[1:])
