"""The night as a job of a Ray cluster: submitted, followed, and its exit code carried home.

The recipe's folder travels as the working directory, so `cloud.yaml` and `seed.jsonl` beside the
recipe come along. A night submitted again while it runs is followed, not started twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from understudy.types.errors import ConfigError

RECONNECT_S = 1.0
AGENT_S, NO_AGENT = 60.0, "No available agent"
_NO_AGENT_HELP = (
    f"the cluster takes no job: its head's job agent did not come up within {AGENT_S:.0f} s; "
    "dashboard_agent.log on the head says why (a second Ray head on one machine needs "
    "--dashboard-agent-listen-port 0)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a cluster is asked to run.

    Attributes:
        id: Name of the job, the same for the same night.
        words: The command, word by word.
        folder: Working directory that travels; empty for none.
    """

    id: str
    words: tuple[str, ...]
    folder: str

    @property
    def entrypoint(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.words)


def plan_job(recipe: str, options: Mapping[str, str], flags: Mapping[str, bool], today: str) -> Job:
    """The job of a night.

    Args:
        recipe: Recipe file, or the name of a preset.
        options: Options of `distill run` with their values; empty ones are left out. Paths are
            those of the cluster, relative to the recipe's folder.
        flags: Flags of `distill run` that are set.
        today: Name of the night when `--date` is empty: decided here, not when the cluster gets to
            it, so that the same night has the same name.
    """
    path = Path(recipe)
    folder = str(path.resolve().parent) if path.exists() else ""
    named = {**options, "--date": options.get("--date") or today}
    words = ["understudy", "distill", "run", "-c", path.name if folder else recipe]
    words += [word for name, value in named.items() if value for word in (name, value)]
    words += [name for name, is_set in flags.items() if is_set]
    return Job(
        id=f"understudy-night-{re.sub(r'[^A-Za-z0-9-]', '-', named['--date'])}",
        words=tuple(words),
        folder=folder,
    )


def submit_night(
    address: str, recipe: str, options: Mapping[str, str], flags: Mapping[str, bool]
) -> int:
    """Submits a night, follows its log, and returns its exit code.

    Args:
        address: Address of the Ray dashboard, such as `http://head:8265`.
        recipe: As in `plan_job`.
        options: As in `plan_job`.
        flags: As in `plan_job`.

    Raises:
        ConfigError: If the cluster cannot be reached or refuses the job.
    """
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    job = plan_job(recipe, options, flags, today)
    client = _client(address)
    name = _begin(client, job)
    print(f"job {name} at {address}", file=sys.stderr)
    asyncio.run(_follow(client, name))
    return exit_code(client.get_job_info(name))


def exit_code(info: Any) -> int:  # noqa: ANN401 - ray's JobDetails
    """The night's own exit code; 1 when the job ended without one, 130 when it was stopped."""
    if info.status.name == "STOPPED":
        return 130
    code = info.driver_exit_code
    if code is None:
        code = 0 if info.status.name == "SUCCEEDED" else 1
    if code and info.message:
        print(f"understudy: the job failed: {info.message.splitlines()[0]}", file=sys.stderr)
    return int(code)


def _client(address: str) -> Any:  # noqa: ANN401 - ray has no types
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ConfigError("Ray's job client is missing: pip install 'understudy[train]'") from error
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"--submit {address}: no Ray dashboard answers there: {error}") from error


def _begin(client: Any, job: Job) -> str:  # noqa: ANN401 - ray has no types
    """Starts the job, or finds the one of the same night that runs; returns its name."""
    taken = {info.submission_id: info.status for info in client.list_jobs() if info.submission_id}
    names = [job.id, *(f"{job.id}-{turn}" for turn in range(2, 100))]
    for name in names:
        if name in taken and not taken[name].is_terminal():
            return name
    return _start(client, job, next(name for name in names if name not in taken))


def _start(client: Any, job: Job, name: str) -> str:  # noqa: ANN401 - ray has no types
    # Keys and secrets stay where they are; a cluster that may sign has its own under --keys.
    excludes = ["publisher-keys", "*.env", ".git"]
    runtime = {"working_dir": job.folder, "excludes": excludes} if job.folder else {}
    give_up = time.monotonic() + AGENT_S
    while True:
        try:
            started: str = client.submit_job(
                entrypoint=job.entrypoint, submission_id=name, runtime_env=runtime
            )
        except (RuntimeError, ValueError, OSError) as error:
            if NO_AGENT not in str(error):
                raise ConfigError(f"the cluster refuses the job: {error}") from error
            # A head that has just come up answers before the agent that runs its jobs.
            if time.monotonic() >= give_up:
                raise ConfigError(_NO_AGENT_HELP) from error
        else:
            return started
        time.sleep(RECONNECT_S)


async def _follow(client: Any, name: str) -> None:  # noqa: ANN401 - ray has no types
    """Prints the job's log until it ends; a lost connection is taken up where it broke."""
    printed = 0
    while True:
        read = 0
        try:
            async for lines in client.tail_job_logs(name):
                # A new connection begins with the log's first line again.
                print(lines[max(printed - read, 0) :], end="", flush=True)
                read += len(lines)
                printed = max(printed, read)
        except (RuntimeError, OSError) as error:
            print(f"the job's log broke off ({error}); following again", file=sys.stderr)
        if client.get_job_status(name).is_terminal():
            return
        await asyncio.sleep(RECONNECT_S)
