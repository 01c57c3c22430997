"""The rollout's state in metrics, read back from a rollout that is under way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from understudy.cloud.metrics import Metrics
from understudy.cloud.releases import Offer, Release, ReleaseKind
from understudy.cloud.rollout import Rollout
from understudy.cloud.rollout_book import RolloutBook
from understudy.cloud.rollout_metrics import RolloutSurvey
from understudy.cloud.rollout_rules import RolloutPlan
from understudy.cloud.state import SqliteState
from understudy.types.release import NodeStatus, UpdateState

OLD, NEW = "a" * 64, "b" * 64
HOUR_S = 3600.0


class Shop:
    """Twenty nodes of one channel, all on the first release; a second one is offered to half."""

    def __init__(self, folder: Path) -> None:
        self.listed = [_release(1, OLD)]
        self.rollout = Rollout(
            RolloutBook(SqliteState(folder / "s.db"), SqliteState(folder / "r.db")),
            self,
            RolloutPlan(stages=(0.5, 1.0)),
        )
        self.now = 0.0
        self.nodes = [f"n{i}" for i in range(20)]
        for _ in range(2):
            for node in self.nodes:
                self.tell(node, OLD)
            self.now += 2 * HOUR_S
        self.listed.append(_release(2, NEW))
        self.first = [node for node in self.nodes if self.tell(node, OLD) == NEW]
        self.now += 2.0

    def releases(self) -> list[Release]:
        return self.listed

    def tell(self, node: str, bundle: str, **fields: object) -> str:
        status = NodeStatus(task="t", bundle=bundle, **fields)  # type: ignore[arg-type]
        return self.rollout.check_in(node, status, self.now).bundle

    def samples(self) -> dict[tuple[str, ...], float]:
        """Every gauge of the rollout by name and label values, read by Prometheus's own parser."""
        survey = RolloutSurvey(
            tuple(self.rollout.rollouts(self.now)), self.rollout.nodes_by_state(self.now)
        )
        text = Metrics().render(
            queue=0, teacher_up=True, log=None, standings={}, rollouts=survey
        ).decode()  # fmt: skip
        names = ("task", "channel", "bundle", "state", "verdict", "rule", "outcome", "right")
        return {
            (s.name, *(s.labels[n] for n in names if n in s.labels)): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
            if s.name.startswith(("understudy_rollout", "understudy_nodes"))
        }


def _release(sequence: int, bundle: str) -> Release:
    offer = Offer(channel="stable", sequence=sequence, kind=ReleaseKind.PUBLISH, published_unix_s=0)
    return Release(task="t", bundle=bundle, target=f"bundles/t/{bundle}/manifest.json", offer=offer)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.rollout.close()


def test_stage_share_and_state_word_of_each_release_are_shown(shop: Shop) -> None:
    found = shop.samples()

    assert 0.5 == found["understudy_rollout_share", "t", "stable", NEW]
    assert 1 == found["understudy_rollout_stage", "t", "stable", NEW]
    assert [1, 0, 0, 0] == [
        found["understudy_rollout_state", "t", "stable", NEW, word]
        for word in ("running", "paused", "halted", "done")
    ]
    assert 1 == found["understudy_rollout_state", "t", "stable", OLD, "done"]


def test_nodes_are_counted_by_what_became_of_the_release(shop: Shop) -> None:
    for node in shop.first[:2]:
        shop.tell(node, NEW, state=UpdateState.COMMIT)
    shop.tell(shop.first[2], NEW, state=UpdateState.PROBATION)
    found = shop.samples()

    assert (2, 0, 0, len(shop.first) - 2) == tuple(
        found["understudy_rollout_nodes", "t", "stable", NEW, outcome]
        for outcome in ("committed", "failed", "silent", "open")
    )


def test_nodes_are_counted_by_the_state_of_their_updater(shop: Shop) -> None:
    shop.tell(shop.first[0], NEW, state=UpdateState.PROBATION)
    shop.now += 4 * HOUR_S
    shop.tell(shop.first[1], OLD, state=UpdateState.DOWNLOAD)
    found = shop.samples()

    assert 1 == found["understudy_nodes", "t", "stable", "download"]
    assert 19 == found["understudy_nodes", "t", "stable", "silent"]
    assert ("understudy_nodes", "t", "stable", "probation") not in found


def test_the_stop_rule_shows_how_near_it_is_and_what_it_says(shop: Shop) -> None:
    quiet = shop.samples()
    for node in shop.first[:2]:
        shop.tell(node, OLD, failed_bundle=NEW, failure="golden vector 3 is off")
    loud = shop.samples()

    level = ("understudy_rollout_stop_level", "t", "stable", NEW, "failures")
    assert quiet[level] < 1.0 <= loud[level]
    assert 1 == quiet["understudy_rollout_verdict", "t", "stable", NEW, "stay"]
    assert 1 == loud["understudy_rollout_verdict", "t", "stable", NEW, "halt"]
    assert 1 == loud["understudy_rollout_state", "t", "stable", NEW, "halted"]
    assert 1 <= loud["understudy_rollout_nodes", "t", "stable", NEW, "failed"]


def test_paired_answers_are_shown_by_who_was_right(shop: Shop) -> None:
    shop.tell(
        shop.first[0], NEW, state=UpdateState.PROBATION, shadow_wins=3, shadow_losses=1
    )  # fmt: skip
    found = shop.samples()

    assert 3 == found["understudy_rollout_shadow_rows", "t", "stable", NEW, "student"]
    assert 1 == found["understudy_rollout_shadow_rows", "t", "stable", NEW, "champion"]
    assert found["understudy_rollout_stop_level", "t", "stable", NEW, "champion"] < 1.0


def test_when_signatures_run_out_is_shown_by_role() -> None:
    """An alert needs it long before updates stop."""
    text = Metrics().render(
        queue=0, teacher_up=True, log=None, standings={},
        rollouts=RolloutSurvey(expiries={"root": 1.9e9, "targets": 1.8e9}),
    ).decode()  # fmt: skip

    assert 'understudy_release_expires_unix_seconds{role="root"} 1.9e+09' in text
    assert 'understudy_release_expires_unix_seconds{role="targets"} 1.8e+09' in text


def test_silence_is_a_level_too(shop: Shop) -> None:
    assert len(shop.first) > 3
    shop.now += 4 * HOUR_S
    found = shop.samples()

    assert 1.0 == found["understudy_rollout_stop_level", "t", "stable", NEW, "silence"]
    assert len(shop.first) == found["understudy_rollout_nodes", "t", "stable", NEW, "silent"]
