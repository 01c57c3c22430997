"""The object behind `/api/state`: what the console shows; its README describes each key."""

from __future__ import annotations

import importlib.metadata
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from understudy.cloud.config import CloudConfig
from understudy.cloud.console.recent import informative, read_nights
from understudy.cloud.late_releases import LateReleases
from understudy.cloud.metrics import Metrics
from understudy.cloud.parts import Parts
from understudy.cloud.releases import Release, ReleaseStore
from understudy.cloud.rollout import Rollout, RolloutView
from understudy.cloud.watch import BundleStanding, SharedAdvice, SliceStanding
from understudy.types.errors import UnderstudyError

_HISTORY = 500
_HISTORY_EVERY_S = 30.0
_RECENT_ROWS = 400


class OperatorState:
    """Reads the parts when asked; keeps a short history of its own."""

    def __init__(
        self, config: CloudConfig, parts: Parts, metrics: Metrics, advice: SharedAdvice
    ) -> None:
        self._config = config
        self._parts = parts
        self._metrics = metrics
        self._advice = advice
        self._history: dict[str, deque[dict[str, float]]] = {
            task: deque(maxlen=_HISTORY) for task in config.tasks
        }
        self._informative: dict[str, list[dict[str, Any]]] = {}
        self._informative_at = 0

    def read(self, task: str) -> dict[str, Any]:
        """The state of a task as plain JSON data; blocks."""
        now, releases = time.time(), self._releases(task)
        standing = self._standing(releases)
        for other in self._config.tasks:
            self._remember(other, now)
        totals = self._metrics.totals(task)
        shown: dict[str, Any] = {
            "version": importlib.metadata.version("understudy"),
            "task": task,
            "tasks": list(self._config.tasks),
            "now_unix_s": now,
            "contract": asdict(self._config.tasks[task].contract),
            "traffic": _traffic(totals) | {"refused": self._metrics.refusals()},
            "history": list(self._history[task]),
            "nodes": self._nodes(),
            "releases": releases,
            "log": self._log(),
            "nights": self._nights(task),
            "escalations": self._escalations().get(task, []),
        }
        shown |= self._rollout(task, now)
        if standing:
            shown |= _contract_sections(standing)
        if self._config.operator.cost_per_teacher_call > 0.0:
            shown["cost"] = {
                "per_teacher_call": self._config.operator.cost_per_teacher_call,
                "currency": self._config.operator.currency,
            }
        return shown

    def _standing(self, releases: list[dict[str, Any]]) -> BundleStanding | None:
        """Of the newest release that the watch has seen rows of."""
        seen = self._advice.standings
        return next((seen[r["bundle"]] for r in releases if r["bundle"] in seen), None)

    def _releases(self, task: str) -> list[dict[str, Any]]:
        """Newest first; empty while nothing was published."""
        source = self._parts.releases
        store = source.store() if isinstance(source, LateReleases) else source
        if not isinstance(store, ReleaseStore):
            return []
        try:
            mine = [release for release in store.releases() if release.task == task]
        except UnderstudyError:
            return []
        newest = {release.channel: release.sequence for release in mine}
        return [_release(r, current=newest[r.channel] == r.sequence) for r in reversed(mine)]

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            known = self._parts.enrolment.nodes()
        except UnderstudyError:
            return []
        seen = {str(entry["node"]): entry for entry in self._fleet_nodes()}
        return [
            {**_seen(seen.get(record.node, {})), "node": record.node}
            | {"revoked": record.revoked_unix_s > 0.0}
            for record in known
        ]

    def _fleet_nodes(self) -> list[dict[str, str | float]]:
        fleet = self._parts.fleet
        return fleet.nodes() if isinstance(fleet, Rollout) else []

    def _rollout(self, task: str, now: float) -> dict[str, Any]:
        """The newest rollout of the task; empty when there is none."""
        fleet = self._parts.fleet
        if not isinstance(fleet, Rollout):
            return {}
        mine = [view for view in fleet.rollouts(now) if view.state.task == task]
        if not mine:
            return {}
        return {"rollout": _rollout(mine[0]) | {"stages": self._config.rollout.stages}}

    def _nights(self, task: str) -> list[dict[str, Any]]:
        results = self._config.path_of(task, "nights") / "nights"
        reports = self._config.operator.reports_dir
        pages = self._config.path_of(task, reports)
        inside = pages.relative_to(self._config.path(reports))
        return [
            night | {"report": str(inside / night["report"]) if night["report"] else ""}
            for night in read_nights(results, pages)
        ]

    def _escalations(self) -> dict[str, list[dict[str, Any]]]:
        """By task, of the newest rows; read again only when there are newer ones."""
        try:
            newest = self._parts.log.stats().last_sequence
            if newest != self._informative_at:
                recent = list(self._parts.log.scan(max(0, newest - _RECENT_ROWS)))
                self._informative_at = newest
                self._informative = {
                    task: informative(row for row in recent if row.record.task == task)
                    for task in self._config.tasks
                }
        except UnderstudyError:
            return {}
        return self._informative

    def _log(self) -> dict[str, Any]:
        try:
            return asdict(self._parts.log.stats())
        except UnderstudyError as error:
            return {"trouble": str(error)}

    def _remember(self, task: str, now: float) -> None:
        history = self._history[task]
        if history and now - history[-1]["unix_s"] < _HISTORY_EVERY_S:
            return
        totals, standing = self._metrics.totals(task), self._standing(self._releases(task))
        # Nodes report their requests a check-in later than the teacher hears of them.
        requests = max(totals.get("all", 0.0), totals["teacher_calls"])
        history.append(
            {
                "unix_s": now,
                "requests": requests,
                "teacher_call_rate": totals["teacher_calls"] / requests if requests else 0.0,
                "risk_upper_bound": standing.risk_upper_bound if standing else 0.0,
                "drift": standing.drift if standing else 0.0,
            }
        )


def _traffic(totals: dict[str, float]) -> dict[str, Any]:
    return {
        "requests": totals.get("all", 0.0),
        "kept": totals.get("kept", 0.0),
        "escalated": totals.get("escalated", 0.0),
        "degraded": totals.get("degraded", 0.0),
        "audits": totals.get("audited", 0.0),
        "teacher_calls": totals["teacher_calls"],
    }


def _contract_sections(standing: BundleStanding) -> dict[str, Any]:
    return {
        "certificate": {
            "certified": standing.threshold is not None,
            "revoked": standing.certificate_revoked,
            "threshold": standing.threshold,
            "risk_upper_bound": standing.risk_upper_bound,
            "rows": standing.rows,
            "cause": standing.cause,
            "slices": [_slice(part) for part in standing.slices],
        },
        "drift": {
            "alarm": standing.certificate_revoked,
            "value": standing.drift,
            "limit": 1.0,
            "since_unix_s": None,
        },
    }


def _slice(part: SliceStanding) -> dict[str, Any]:
    return {
        "name": part.name,
        "standing": part.standing,
        "revoked": part.certificate_revoked,
        "threshold": part.threshold,
        "rows": part.rows,
        "drift": part.drift,
    }


def _seen(entry: Mapping[str, str | float]) -> dict[str, Any]:
    """A node's last word; nothing of it while the node has never checked in."""
    names = ("bundle", "channel", "state", "failure")
    return {name: entry.get(name, "") for name in names} | {
        "last_seen_unix_s": entry.get("seen_unix_s")
    }


def _rollout(view: RolloutView) -> dict[str, Any]:
    state, counts = view.state, view.counts
    return {
        "bundle": state.bundle,
        "channel": state.channel,
        "share": view.share,
        "state": {"halted": "stopped"}.get(state.phase.value, state.phase.value),
        "committed": counts.committed,
        "failed": counts.failed,
        "silent": counts.silent,
        "reason": state.reason,
    }


def _release(release: Release, *, current: bool) -> dict[str, Any]:
    return {
        "bundle": release.bundle,
        "channel": release.channel,
        "version": release.sequence,
        "published_unix_s": release.offer.published_unix_s,
        "current": current,
    }
