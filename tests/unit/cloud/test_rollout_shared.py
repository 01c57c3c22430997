"""Several gateway processes over one book: nothing is lost, and nothing counts twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.releases import Offer, Release, ReleaseKind
from understudy.cloud.rollout import Rollout
from understudy.cloud.rollout_book import Phase, RolloutBook
from understudy.cloud.rollout_rules import RolloutPlan
from understudy.cloud.state import SharedState, SqliteState
from understudy.cloud.state_redis import RedisState
from understudy.types.release import NodeStatus, UpdateState

OLD, NEW = "a" * 64, "b" * 64
PLAN = RolloutPlan(stages=(0.5, 1.0))
_tenants = itertools.count()


def release(sequence: int, bundle: str) -> Release:
    offer = Offer(channel="stable", sequence=sequence, kind=ReleaseKind.PUBLISH, published_unix_s=0)
    return Release(task="t", bundle=bundle, target=f"bundles/t/{bundle}/manifest.json", offer=offer)


@dataclass
class Signed:
    listed: list[Release] = field(default_factory=lambda: [release(1, OLD), release(2, NEW)])

    def releases(self) -> list[Release]:
        return self.listed


class Interrupted:
    """Shared state in which another process acts just before a rollout is written."""

    def __init__(self, inner: SharedState) -> None:
        self._inner = inner
        self.before_writing: Callable[[], object] | None = None

    def get(self, key: str) -> bytes | None:
        return self._inner.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._inner.put(key, value)

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        act, self.before_writing = self.before_writing, None
        if act is not None:
            act()
        return self._inner.swap(key, expected, value)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def items(self, prefix: str) -> dict[str, bytes]:
        return self._inner.items(prefix)

    def close(self) -> None:
        self._inner.close()


@dataclass
class Pair:
    """Two gateways over one book."""

    one: Rollout
    other: Rollout
    between: Interrupted
    signed: Signed
    now: float = 10_000.0

    def tell(self, gateway: Rollout, node: str, bundle: str, **fields: object) -> str:
        status = NodeStatus(task="t", bundle=bundle, **fields)  # type: ignore[arg-type]
        return gateway.check_in(node, status, self.now).bundle

    def first(self, count: int) -> list[str]:
        """Nodes to which the first stage offers the new release."""
        names = (f"n{i}" for i in itertools.count())
        return list(
            itertools.islice((n for n in names if self.tell(self.one, n, OLD) == NEW), count)
        )


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    def opened(name: str) -> SharedState:
        if request.param == "sqlite":
            return SqliteState(tmp_path / name, power_safe=False)
        return RedisState(request.getfixturevalue("redis_server").url, tenant=tenant)

    tenant, signed = f"t{next(_tenants)}", Signed()
    between = Interrupted(opened("state.db"))
    one = Rollout(RolloutBook(between, opened("rollout.db")), signed, PLAN)
    other = Rollout(RolloutBook(opened("state.db"), opened("rollout.db")), signed, PLAN)
    made = Pair(one, other, between, signed)
    made.tell(one, "old-hand", OLD)
    yield made
    one.close()
    other.close()


def test_what_one_gateway_hears_the_other_knows(pair: Pair) -> None:
    node = pair.first(1)[0]
    pair.tell(pair.one, node, NEW, state=UpdateState.COMMIT)

    assert pair.one.rollouts(pair.now) == pair.other.rollouts(pair.now)
    assert 1 == pair.other.rollouts(pair.now)[0].counts.committed
    assert pair.one.nodes() == pair.other.nodes()


def test_a_pause_at_one_is_a_pause_at_the_other(pair: Pair) -> None:
    node = pair.first(1)[0]
    pair.one.pause("t", "stable", pair.now)
    pair.now += 60

    assert NEW != pair.tell(pair.other, node, OLD)
    pair.other.resume("t", "stable", pair.now)
    assert NEW == pair.tell(pair.one, node, OLD)


def test_a_node_that_changes_gateways_counts_once(pair: Pair) -> None:
    node = pair.first(1)[0]
    before = pair.one.rollouts(pair.now)[0].counts.offered
    for gateway in (pair.one, pair.other, pair.one):
        pair.tell(gateway, node, NEW, state=UpdateState.COMMIT)

    counts = pair.other.rollouts(pair.now)[0].counts
    assert (before, 1) == (counts.offered, counts.committed)


def test_a_pause_between_look_and_step_is_not_overwritten(pair: Pair) -> None:
    """One gateway has judged and is about to go on; an operator pauses at the other just then."""
    for node in pair.first(6):
        pair.tell(pair.one, node, NEW, state=UpdateState.COMMIT)
    pair.now += PLAN.stage_s + 1
    paused_at: list[float] = []

    def pause() -> None:
        pair.other.pause("t", "stable", pair.now)
        paused_at.append(pair.now)

    pair.between.before_writing = pause
    pair.tell(pair.one, "old-hand", OLD)

    assert [pair.now] == paused_at
    assert Phase.PAUSED is pair.one.rollouts(pair.now)[0].state.phase


def test_failures_heard_by_either_stop_it_for_both(pair: Pair) -> None:
    """Half the evidence each would be too little for either."""
    for node in (committed := pair.first(8)):
        pair.tell(pair.one, node, NEW, state=UpdateState.COMMIT)
    bad = [node for node in pair.first(12) if node not in committed]
    for node, gateway in zip(bad, itertools.cycle((pair.one, pair.other))):
        pair.tell(gateway, node, OLD, failed_bundle=NEW, failure="golden vector 3 is off")

    assert Phase.HALTED is pair.other.rollouts(pair.now)[0].state.phase
    assert NEW != pair.tell(pair.one, bad[0], OLD)


def test_a_crowd_at_both_gateways_is_counted_to_the_last_node(pair: Pair) -> None:
    nodes = [f"crowd-{i}" for i in range(120)]

    def visit(number: int) -> None:
        gateway = (pair.one, pair.other)[number % 2]
        pair.tell(gateway, nodes[number], NEW, state=UpdateState.COMMIT)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(len(nodes))))

    assert len(nodes) == pair.one.rollouts(pair.now)[0].counts.committed


def test_pages_of_releases_long_gone_are_closed(pair: Pair) -> None:
    for sequence in range(3, 10):
        pair.signed.listed = [
            release(s, f"{s:064x}") for s in range(max(3, sequence - 2), sequence + 1)
        ]
        pair.now += 10
        pair.tell(pair.one, "old-hand", f"{sequence:064x}")

    assert [9, 8, 7, 6, 5, 4] == [v.state.sequence for v in pair.other.rollouts(pair.now)]
