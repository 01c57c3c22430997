"""The gateway's side of the console: a state that a test changes, and a rollout that remembers."""

from __future__ import annotations

import copy
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from understudy.cloud.console.routes import console_routes
from understudy.types.errors import UnderstudyError

TOKEN = "a-token-of-the-operator"  # noqa: S105 - of the tests only
NOW = 1_800_000_000.0

STATE: dict[str, Any] = {
    "version": "0.1.0",
    "task": "support-desk",
    "now_unix_s": NOW,
    "contract": {"max_quality_loss": 0.02, "confidence": 0.95, "kind": "joint"},
    "certificate": {
        "certified": True, "revoked": False, "threshold": 0.8123, "risk_upper_bound": 0.0141,
        "keep_rate": 0.874, "rows": 1240, "errors": 9, "rows_missing": 0,
        "issued_unix_s": NOW - 40_000, "expires_unix_s": NOW + 12 * 86_400,
        "slices": [
            {"name": "kiosks", "standing": "live", "revoked": False, "threshold": 0.8412,
             "rows": 412, "drift": 0.18},
            {"name": "telephone", "standing": "night", "revoked": False, "threshold": 0.9021,
             "rows": 266, "drift": 0.44},
        ],
    },
    "traffic": {"requests": 48_210, "kept": 41_060, "escalated": 6_890, "degraded": 260,
                "audits": 960, "teacher_calls": 7_850},
    "cost": {"per_teacher_call": 0.004, "currency": "USD"},
    "drift": {"alarm": False, "value": 3.2, "limit": 1000.0, "since_unix_s": None},
    "history": [
        {"unix_s": NOW - (60 - i) * 3600, "risk_upper_bound": 0.035 - 0.00036 * i,
         "teacher_call_rate": 0.55 - 0.0065 * i, "drift": 1.0 + (i % 7), "requests": 800}
        for i in range(60)
    ],
    "nodes": [
        {"node": "kiosk-01", "bundle": "sha256:4f1c9a77d2b0", "channel": "stable", "state": "idle",
         "last_seen_unix_s": NOW - 31, "requests": 20_100, "escalated": 2_900, "degraded": 12,
         "spool_rows": 0, "failure": "", "revoked": False},
        {"node": "kiosk-02", "bundle": "sha256:09aa51ce77f3", "channel": "stable",
         "state": "rollback", "last_seen_unix_s": NOW - 400, "requests": 18_400, "escalated": 2_500,
         "degraded": 220, "spool_rows": 41, "revoked": False,
         "failure": "golden vector 3 differs: the graph does not answer as published"},
    ],
    "rollout": {"bundle": "sha256:4f1c9a77d2b0", "channel": "stable", "share": 0.25,
                "stages": [0.1, 0.25, 0.5, 1.0],
                "state": "running", "committed": 12, "failed": 1, "silent": 2, "reason": ""},
    "releases": [
        {"bundle": "sha256:4f1c9a77d2b0", "channel": "stable", "version": 4,
         "published_unix_s": NOW - 9_000, "current": True},
        {"bundle": "sha256:09aa51ce77f3", "channel": "stable", "version": 3,
         "published_unix_s": NOW - 95_000, "current": False},
    ],
    "nights": [
        {"date": "2027-01-14", "verdict": "promote", "reason": "better by 1.2 points, 0.4 % break",
         "bundle": "sha256:4f1c9a77d2b0", "seconds": 78.0, "report": "2027-01-14/report.html"},
        {"date": "2027-01-13", "verdict": "undecided", "reason": "31 new labels are too few",
         "bundle": "", "seconds": 12.0, "report": ""},
    ],
    "escalations": [
        {"event_id": "e1", "kind": "escalation", "text": "card [number] was swallowed",
         "confidence": 0.41, "student_label": "card_lost", "teacher_label": "card_swallowed",
         "unix_s": NOW - 700},
    ],
}  # fmt: skip


class Rollout:
    """Remembers what was asked, and shows it in the state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.asked: list[str] = []
        self._state = state

    def pause(self) -> str:
        return self._do("pause", "paused")

    def resume(self) -> str:
        return self._do("resume", "running")

    def rollback(self) -> str:
        if len(self._state["releases"]) < 2:
            raise UnderstudyError("there is no release before this one")
        return self._do("rollback", "done")

    def _do(self, what: str, becomes: str) -> str:
        self.asked.append(what)
        self._state["rollout"]["state"] = becomes
        return f"{what} done"


class Operator:
    """A console over a state of its own, and one more for each of `others`."""

    def __init__(
        self, *, token: str = TOKEN, reports: Path | None = None, others: Sequence[str] = ()
    ) -> None:
        self.state: dict[str, Any] = copy.deepcopy(STATE)
        self.others = {task: copy.deepcopy(STATE) | {"task": task} for task in others}
        self.state["tasks"] = [self.state["task"], *others]
        for other in self.others.values():
            other["tasks"] = self.state["tasks"]
        self.rollout = Rollout(self.state)
        self.rollouts = {task: Rollout(state) for task, state in self.others.items()}
        self.app = Starlette(
            routes=console_routes(
                state=self.look,
                tasks=self.state["tasks"],
                control=lambda task: self.rollouts.get(task, self.rollout),
                token=token,
                reports=reports,
            )
        )

    def look(self, task: str) -> Mapping[str, Any]:
        return self.others.get(task, self.state)


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serves an application on a free port; gives its address and waits for the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
