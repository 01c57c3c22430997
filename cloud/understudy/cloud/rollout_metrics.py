"""Rollouts and releases as Prometheus reads them: stage, state, nodes, stop rule, expiry.

Gauges, filled when somebody asks. With several gateway processes all of them show the same numbers,
since all read the same book: take `max by`, not `sum by`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import Gauge

from understudy.cloud.rollout import RolloutView
from understudy.cloud.rollout_book import Phase
from understudy.cloud.rollout_rules import Step

_RELEASE = ("task", "channel", "bundle")


@dataclass(frozen=True, slots=True)
class RolloutSurvey:
    """Every rollout and every node at one moment.

    Attributes:
        views: Rollouts, newest first.
        nodes: Nodes by task, channel and updater's state.
        expiries: When each role's newest signature runs out, seconds since 1970.
    """

    views: Sequence[RolloutView] = ()
    nodes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    expiries: Mapping[str, float] = field(default_factory=dict)


class RolloutGauges:
    """Gauges of one registry."""

    def __init__(self, make: dict[str, Any]) -> None:
        """Registers them.

        Args:
            make: Registry and namespace, as every metric here takes them.
        """

        def gauge(name: str, says: str, *labels: str) -> Gauge:
            return Gauge(name, says, labels, **make)

        self._share = gauge("rollout_share", "Share of nodes offered a bundle", *_RELEASE)
        self._stage = gauge("rollout_stage", "Stage of a rollout, from 1", *_RELEASE)
        self._state = gauge("rollout_state", "1 for the state it is in", *_RELEASE, "state")
        self._verdict = gauge(
            "rollout_verdict", "1 for what the stop rule says", *_RELEASE, "verdict"
        )
        self._level = gauge("rollout_stop_level", "1 stops the rollout", *_RELEASE, "rule")
        self._outcomes = gauge(
            "rollout_nodes", "Nodes offered a bundle, by outcome", *_RELEASE, "outcome"
        )
        self._pairs = gauge(
            "rollout_shadow_rows", "Disputed shadow answers, by who was right", *_RELEASE, "right"
        )
        self._nodes = gauge(
            "nodes", "Nodes by updater's state, or silent", "task", "channel", "state"
        )
        self._expiries = gauge(
            "release_expires_unix_seconds", "When the newest signature runs out", "role"
        )

    def fill(self, survey: RolloutSurvey) -> None:
        """Shows how things stand; what is no longer on its way disappears."""
        for gauge in (
            self._share, self._stage, self._state, self._verdict, self._level, self._outcomes,
            self._pairs, self._nodes, self._expiries,
        ):  # fmt: skip
            gauge.clear()
        # The newest last: should a channel offer the same bundle twice, its newest release shows.
        for view in reversed(survey.views):
            self._show(view)
        for (task, channel, state), count in survey.nodes.items():
            self._nodes.labels(task, channel, state).set(count)
        for role, unix_s in survey.expiries.items():
            self._expiries.labels(role).set(unix_s)

    def _show(self, view: RolloutView) -> None:
        state, counts = view.state, view.counts
        release = (state.task, state.channel, state.bundle)
        self._share.labels(*release).set(view.share)
        self._stage.labels(*release).set(state.stage + 1)
        for phase in Phase:
            self._state.labels(*release, phase.value).set(phase is state.phase)
        for step in Step:
            self._verdict.labels(*release, step.value).set(step is view.verdict.step)
        for rule, level in asdict(view.levels).items():
            self._level.labels(*release, rule).set(level)
        still_open = counts.offered - counts.committed - counts.failed - counts.silent
        outcomes = {
            "committed": counts.committed,
            "failed": counts.failed,
            "silent": counts.silent,
            "open": still_open,
        }
        for outcome, nodes in outcomes.items():
            self._outcomes.labels(*release, outcome).set(nodes)
        self._pairs.labels(*release, "student").set(counts.shadow_wins)
        self._pairs.labels(*release, "champion").set(counts.shadow_losses)
