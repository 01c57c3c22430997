"""Rules of a rollout: who may have a release, what stops it, and what a restart remembers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from understudy.cloud.releases import Offer, Release, ReleaseKind
from understudy.cloud.rollout import Rollout
from understudy.cloud.rollout_book import Counts, Phase, RolloutBook, RolloutState
from understudy.cloud.rollout_rules import (
    RolloutPlan,
    Step,
    evidence,
    judge_stage,
    place,
)
from understudy.cloud.state import SqliteState
from understudy.types.errors import BundleError, InvalidValueError
from understudy.types.release import Directive, NodeStatus, UpdateState

OLD, NEW, NEWER = "a" * 64, "b" * 64, "c" * 64
PLAN = RolloutPlan()


def release(
    sequence: int, bundle: str, *, channel: str = "stable", kind: ReleaseKind = ReleaseKind.PUBLISH
) -> Release:
    offer = Offer(channel=channel, sequence=sequence, kind=kind, published_unix_s=0)
    return Release(task="t", bundle=bundle, target=f"bundles/t/{bundle}/manifest.json", offer=offer)


@dataclass
class Signed:
    """What the publisher has signed."""

    listed: list[Release] = field(default_factory=lambda: [release(1, OLD)])

    def releases(self) -> list[Release]:
        return list(self.listed)


@dataclass
class Fleet:
    """Nodes that do what they are told, or fail, or fall silent."""

    rollout: Rollout
    signed: Signed
    loaded: dict[str, str]
    now: float = 0.0
    failing: dict[str, set[str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def tell(self, node: str, **fields: object) -> Directive:
        status = NodeStatus(task="t", bundle=self.loaded[node], **fields)  # type: ignore[arg-type]
        return self.rollout.check_in(node, status, self.now)

    def round(self, hours: float = 0.25) -> None:
        """Every node checks in once and does what it hears."""
        for node, bundle in self.loaded.items():
            if node in self.silent and bundle:
                continue
            directive = self.tell(node)
            wanted = directive.bundle
            if not wanted or wanted == bundle:
                continue
            if node in self.failing.get(wanted, set()):
                self.tell(node, failed_bundle=wanted, failure="golden vector 3 is off")
            else:
                self.loaded[node] = wanted
        self.now += hours * 3600

    def share(self, bundle: str) -> float:
        return sum(b == bundle for b in self.loaded.values()) / len(self.loaded)

    def state(self) -> RolloutState:
        return self.rollout.rollouts(self.now)[0].state

    def counts(self) -> Counts:
        return self.rollout.rollouts(self.now)[0].counts


def book(folder: Path) -> RolloutBook:
    """The pages on one machine; another call is another process."""
    words = SqliteState(folder / "rollout.db", power_safe=False)
    return RolloutBook(SqliteState(folder / "state.db"), words)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A hundred nodes that run the first release."""
    signed = Signed()
    rollout = Rollout(book(tmp_path), signed)
    made = Fleet(rollout, signed, {f"node-{n}": "" for n in range(100)})
    for _ in range(6):
        made.round()
    yield made
    rollout.close()


class TestSpreading:
    def test_a_first_release_reaches_everybody_at_once(self, fleet: Fleet) -> None:
        """There is nothing to compare it with, and nodes without a student cannot answer."""
        assert 1.0 == fleet.share(OLD)
        assert Phase.DONE is fleet.state().phase

    def test_a_release_spreads_in_three_stages(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        shares = []
        for _ in range(16):
            fleet.round()
            shares.append(fleet.share(NEW))

        assert shares == sorted(shares)
        assert shares[0] < 0.12
        assert any(0.15 < share < 0.35 for share in shares)
        assert 1.0 == shares[-1]

    def test_no_stage_is_shorter_than_planned(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        began = fleet.now
        while fleet.state().sequence != 2 or fleet.state().stage == 0:
            fleet.round(hours=0.1)

        assert fleet.now - began >= PLAN.stage_s

    def test_a_node_goes_first_for_some_releases_and_last_for_others(self) -> None:
        places = []
        for sequence in range(60):
            state = RolloutState(
                sequence=sequence, task="t", channel="stable", bundle=NEW, target="",
                phase=Phase.RUNNING, stage=0, stage_unix_s=0.0, evidence_unix_s=0.0,
            )  # fmt: skip
            places.append(place(state, "node-7"))

        assert min(places) < 0.1
        assert max(places) > 0.9
        assert all(0.0 <= p < 1.0 for p in places)

    def test_a_rollback_reaches_everybody_at_once(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(16):
            fleet.round()
        fleet.signed.listed = [release(3, OLD, kind=ReleaseKind.ROLLBACK)]
        fleet.round()

        assert 1.0 == fleet.share(OLD)

    def test_the_canary_channel_takes_every_release_at_once(self, fleet: Fleet) -> None:
        fleet.signed.listed += [
            release(2, OLD, channel="canary"), release(3, NEW, channel="canary"),
        ]  # fmt: skip

        assert NEW == fleet.tell("node-1", channel="canary").bundle
        assert OLD == fleet.tell("node-1").bundle

    def test_a_new_node_gets_the_last_release_that_everybody_may_have(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        fleet.round()
        for number in range(40):
            fleet.loaded[f"late-{number}"] = ""
        heard = [fleet.tell(f"late-{number}").bundle for number in range(40)]

        assert heard.count(OLD) > 30
        assert "" not in heard

    def test_a_release_that_never_passed_its_first_stage_is_nobodys_fallback(
        self, fleet: Fleet
    ) -> None:
        fleet.signed.listed.append(release(2, NEW))
        fleet.round()
        fleet.signed.listed.append(release(3, NEWER))
        fleet.round()
        fleet.round()

        assert fleet.share(NEW) < 0.1
        assert fleet.share(OLD) > 0.8

    def test_only_first_stage_nodes_run_the_champion_in_the_shadow(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        directives = [fleet.tell(node) for node in fleet.loaded]

        assert {NEW} == {d.bundle for d in directives if d.shadow_rate > 0}
        assert {0.0} == {d.shadow_rate for d in directives if d.bundle == OLD}

    def test_who_has_something_to_do_reports_soon(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        directives = [fleet.tell(node) for node in fleet.loaded]

        assert {PLAN.busy_check_in_s} == {d.next_check_in_s for d in directives if d.bundle == NEW}
        assert {PLAN.check_in_s} == {d.next_check_in_s for d in directives if d.bundle == OLD}

    def test_without_releases_every_node_stays(self, fleet: Fleet) -> None:
        fleet.signed.listed = []

        assert "" == fleet.tell("node-1").target


class TestStopping:
    def test_failures_stop_it_in_the_first_stage(self, fleet: Fleet) -> None:
        fleet.failing[NEW] = set(fleet.loaded)
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(20):
            fleet.round()

        assert Phase.HALTED is fleet.state().phase
        assert 0.0 == fleet.share(NEW)
        assert fleet.counts().offered <= 20

    def test_a_stopped_release_is_offered_to_nobody_new(self, fleet: Fleet) -> None:
        fleet.failing[NEW] = set(fleet.loaded)
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(5):
            fleet.round()
        heard = {fleet.tell(node).bundle for node in fleet.loaded}

        assert {OLD} == heard

    def test_who_has_a_stopped_release_for_good_keeps_it(self, fleet: Fleet) -> None:
        """Back and forth helps nobody: taking it back is the publisher's signed decision."""
        fleet.signed.listed.append(release(2, NEW))
        fleet.round()
        fleet.round()
        fleet.rollout.pause("t", "stable", fleet.now)
        lucky = [node for node, bundle in fleet.loaded.items() if bundle == NEW]

        assert lucky
        assert {NEW} == {fleet.tell(node).bundle for node in lucky}

    def test_nodes_that_fall_silent_stop_it(self, fleet: Fleet) -> None:
        """A student that kills its host reports nothing: silence is a bad sign too."""
        fleet.signed.listed.append(release(2, NEW))
        first = [node for node in fleet.loaded if fleet.tell(node).bundle == NEW]
        fleet.silent = set(first)
        for _ in range(20):
            fleet.round()

        assert Phase.HALTED is fleet.state().phase
        assert "silent" in fleet.state().reason

    def test_paired_evidence_for_the_champion_stops_it(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        node = next(node for node in fleet.loaded if fleet.tell(node).bundle == NEW)
        fleet.loaded[node] = NEW
        fleet.tell(node, state=UpdateState.PROBATION, shadow_wins=2, shadow_losses=25)

        assert Phase.HALTED is fleet.state().phase
        assert "champion" in fleet.state().reason

    def test_a_node_on_probation_counts_for_nothing_yet(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        node = next(node for node in fleet.loaded if fleet.tell(node).bundle == NEW)
        fleet.loaded[node] = NEW
        fleet.tell(node, state=UpdateState.PROBATION)

        assert 0 == fleet.counts().committed

    def test_after_a_resume_old_failures_no_longer_count(self, fleet: Fleet) -> None:
        fleet.failing[NEW] = set(list(fleet.loaded)[::4])
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(20):
            fleet.round()
        halted = fleet.state().phase
        fleet.failing.clear()
        fleet.now += 1
        fleet.rollout.resume("t", "stable", fleet.now)
        for _ in range(40):
            fleet.round()

        assert (Phase.HALTED, Phase.DONE) == (halted, fleet.state().phase)

    def test_nothing_can_be_paused_that_was_never_released(self, fleet: Fleet) -> None:
        with pytest.raises(BundleError):
            fleet.rollout.pause("t", "nightly", 0.0)


class TestPins:
    def test_a_pinned_node_stays_where_it_is(self, fleet: Fleet) -> None:
        fleet.rollout.pin("node-3", "t")
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(16):
            fleet.round()

        assert OLD == fleet.loaded["node-3"]
        assert 0.99 == fleet.share(NEW)

    def test_a_node_can_be_pinned_to_a_release_ahead_of_its_turn(self, fleet: Fleet) -> None:
        fleet.signed.listed.append(release(2, NEW))
        fleet.rollout.pin("node-3", "t", NEW)

        assert NEW == fleet.tell("node-3").bundle

    def test_an_unpinned_node_follows_its_channel_again(self, fleet: Fleet) -> None:
        fleet.rollout.pin("node-3", "t")
        fleet.signed.listed.append(release(2, NEW))
        fleet.rollout.unpin("node-3", "t")
        for _ in range(16):
            fleet.round()

        assert NEW == fleet.loaded["node-3"]


class TestMemory:
    def test_a_restarted_server_goes_on_where_it_was(self, fleet: Fleet, tmp_path: Path) -> None:
        """In-memory rollouts have stranded whole fleets elsewhere."""
        fleet.signed.listed.append(release(2, NEW))
        for _ in range(6):
            fleet.round()
        before = fleet.rollout.rollouts(fleet.now)
        fleet.rollout.close()
        fleet.rollout = Rollout(book(tmp_path), fleet.signed)
        again = fleet.rollout.rollouts(fleet.now)
        fleet.rollout.close()

        assert before == again
        assert 2 == before[0].state.sequence

    def test_each_nodes_last_word_can_be_listed(self, fleet: Fleet) -> None:
        fleet.tell("node-1", client_version="9.9", failure="no disk")
        node = next(n for n in fleet.rollout.nodes() if n["node"] == "node-1")

        assert ("9.9", "no disk", OLD) == (node["client_version"], node["failure"], node["bundle"])


class TestTheStopRule:
    def test_it_seldom_stops_a_good_release_however_often_one_looks(self) -> None:
        """Looked at after every single node, it errs at most one time in twenty."""
        chance = random.Random(11)  # noqa: S311
        stopped = 0
        for _ in range(400):
            failed = 0
            for total in range(1, 201):
                failed += chance.random() < PLAN.tolerated_failures
                if evidence(failed, total, PLAN.tolerated_failures) >= 1 / PLAN.alpha:
                    stopped += 1
                    break

        assert stopped <= 0.05 * 400 + 8

    def test_it_stops_a_bad_release_within_a_few_nodes(self) -> None:
        chance = random.Random(5)  # noqa: S311
        needed = []
        for _ in range(100):
            failed = 0
            for total in range(1, 500):
                failed += chance.random() < 0.3
                if evidence(failed, total, PLAN.tolerated_failures) >= 1 / PLAN.alpha:
                    needed.append(total)
                    break

        assert 100 == len(needed)
        assert sorted(needed)[50] <= 10

    @pytest.mark.parametrize(
        ("counts", "age_s", "cohort", "step"),
        [
            (Counts(), 0.0, 0, Step.STAY),
            (Counts(), 3600.0, 0, Step.ADVANCE),
            (Counts(offered=5), 3600.0, 5, Step.STAY),
            (Counts(offered=5, committed=4), 3600.0, 5, Step.ADVANCE),
            (Counts(offered=5, committed=4), 3599.0, 5, Step.STAY),
            (Counts(offered=5, committed=1), 3600.0, 10, Step.STAY),
            (Counts(offered=1, failed=1, counted_failed=1), 0.0, 1, Step.HALT),
            (
                Counts(offered=60, committed=59, failed=1, counted_committed=59, counted_failed=1),
                3600.0,
                60,
                Step.ADVANCE,
            ),
            (Counts(offered=10, committed=6, silent=4), 0.0, 6, Step.HALT),
            (Counts(offered=40, committed=38, silent=2), 3600.0, 38, Step.ADVANCE),
            (Counts(offered=4, shadow_wins=9, shadow_losses=9), 0.0, 4, Step.STAY),
            (Counts(offered=4, shadow_losses=12), 0.0, 4, Step.HALT),
        ],
    )
    def test_a_stage_is_judged(self, counts: Counts, age_s: float, cohort: int, step: Step) -> None:
        assert step is judge_stage(PLAN, counts, age_s, cohort).step

    def test_evidence_starts_at_one_and_never_overflows(self) -> None:
        assert pytest.approx(1.0) == evidence(0, 0, 0.02)
        assert evidence(100_000, 100_000, 0.02) <= 1e300
        assert evidence(0, 100_000, 0.02) >= 0.0

    @pytest.mark.parametrize("stages", [(), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0), (0.1, 1.2)])
    def test_stages_rise_to_everybody(self, stages: tuple[float, ...]) -> None:
        with pytest.raises(InvalidValueError):
            RolloutPlan(stages=stages)
