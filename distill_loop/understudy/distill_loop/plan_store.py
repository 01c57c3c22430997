"""A plan kept until its night has ended, so that the night's page can say how near it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from understudy.distill_loop.night import Night
from understudy.distill_loop.workspace import Workspace, to_json
from understudy.files import write_atomic


def keep_plan(workspace: Workspace, champion: str, plan: Mapping[str, Any]) -> None:
    """Notes what was planned for the next night after this champion."""
    write_atomic(workspace.path("plan.json"), to_json({"champion": champion, "plan": plan}))


def planned_for(night: Night) -> dict[str, Any]:
    """What was planned for this night; empty when nothing was, or for another champion."""
    try:
        kept = json.loads(night.workspace.path("plan.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    plan: dict[str, Any] = kept["plan"] if kept["champion"] == night.champion_id else {}
    return plan
