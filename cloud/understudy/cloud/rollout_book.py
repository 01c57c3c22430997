"""What the rollout remembers, in one SQLite file: a restarted server goes on where it was."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from understudy.types.release import NodeStatus

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rollouts (
  sequence INTEGER PRIMARY KEY, task TEXT NOT NULL, channel TEXT NOT NULL, bundle TEXT NOT NULL,
  target TEXT NOT NULL, phase TEXT NOT NULL, stage INTEGER NOT NULL, stage_unix_s REAL NOT NULL,
  evidence_unix_s REAL NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS nodes (
  node TEXT NOT NULL, task TEXT NOT NULL, channel TEXT NOT NULL, bundle TEXT NOT NULL,
  state TEXT NOT NULL, failed_bundle TEXT NOT NULL, failure TEXT NOT NULL,
  client_version TEXT NOT NULL, seen_unix_s REAL NOT NULL, PRIMARY KEY (node, task));
CREATE TABLE IF NOT EXISTS offers (
  sequence INTEGER NOT NULL, node TEXT NOT NULL, offered_unix_s REAL NOT NULL,
  outcome TEXT NOT NULL DEFAULT '', decided_unix_s REAL NOT NULL DEFAULT 0,
  wins INTEGER NOT NULL DEFAULT 0, losses INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sequence, node));
CREATE TABLE IF NOT EXISTS pins (
  node TEXT NOT NULL, task TEXT NOT NULL, bundle TEXT NOT NULL, PRIMARY KEY (node, task));
"""
_COUNTS = """
SELECT count(*), coalesce(sum(outcome = 'committed'), 0), coalesce(sum(outcome = 'failed'), 0),
  coalesce(sum(outcome = '' AND coalesce(seen_unix_s, 0) < :silent), 0),
  coalesce(sum(wins), 0), coalesce(sum(losses), 0),
  coalesce(sum(outcome = 'committed' AND decided_unix_s >= :since), 0),
  coalesce(sum(outcome = 'failed' AND decided_unix_s >= :since), 0)
FROM offers LEFT JOIN nodes ON nodes.node = offers.node AND nodes.task = :task
WHERE sequence = :sequence
"""


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """By hand."""
    HALTED = "halted"
    """By the stop rule."""
    DONE = "done"


class Outcome(StrEnum):
    """What became of a release on one node."""

    OPEN = ""
    COMMITTED = "committed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """One release on its way to the nodes of its channel.

    Attributes:
        sequence: The release.
        task: Its task.
        channel: Its channel.
        bundle: Its bundle.
        target: TUF target path of the bundle's manifest.
        phase: Where the rollout stands.
        stage: Position in the plan's stages.
        stage_unix_s: When the stage began.
        evidence_unix_s: Outcomes before this time no longer count; set by a resume.
        reason: Why it stands where it does.
    """

    sequence: int
    task: str
    channel: str
    bundle: str
    target: str
    phase: Phase
    stage: int
    stage_unix_s: float
    evidence_unix_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of a release so far, in nodes; shadow counts in requests.

    Attributes:
        offered: Nodes that may have it.
        committed: Of these, run it for good.
        failed: Of these, took it back or refused it.
        silent: Of these, undecided and not heard of.
        shadow_wins: Disputed requests in which the teacher agreed with the new student.
        shadow_losses: Disputed requests in which the teacher agreed with the champion.
        counted_committed: Of the committed, those that the stop rule counts.
        counted_failed: Of the failed, those that the stop rule counts; a resume begins anew.
    """

    offered: int = 0
    committed: int = 0
    failed: int = 0
    silent: int = 0
    shadow_wins: int = 0
    shadow_losses: int = 0
    counted_committed: int = 0
    counted_failed: int = 0


class RolloutBook:
    """Tables of rollouts, nodes, offers and pins; the caller holds a lock."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def see(self, node: str, status: NodeStatus, now: float) -> None:
        """Remembers a node's last word."""
        self._db.execute(
            "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                node,
                status.task,
                status.channel,
                status.bundle,
                status.state.value,
                status.failed_bundle,
                status.failure,
                status.client_version,
                now,
            ),
        )

    def nodes(self) -> list[dict[str, str | float]]:
        """Every node's last word, by column name."""
        cursor = self._db.execute("SELECT * FROM nodes ORDER BY node, task")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def rollout(self, sequence: int) -> RolloutState | None:
        """The rollout of a release; None before it began."""
        rows = self._db.execute("SELECT * FROM rollouts WHERE sequence = ?", (sequence,))
        row = rows.fetchone()
        return _rollout(row) if row else None

    def rollouts(self) -> list[RolloutState]:
        """Every rollout, newest first."""
        rows = self._db.execute("SELECT * FROM rollouts ORDER BY sequence DESC")
        return [_rollout(row) for row in rows]

    def write(self, rollout: RolloutState) -> RolloutState:
        """Makes a rollout durable and returns it."""
        self._db.execute(
            "INSERT OR REPLACE INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            tuple(getattr(rollout, field.name) for field in fields(RolloutState)),
        )
        return rollout

    def counts(self, rollout: RolloutState, silent_unix_s: float) -> Counts:
        """What became of a release; who was last heard before `silent_unix_s` is silent."""
        row = self._db.execute(
            _COUNTS,
            {
                "since": rollout.evidence_unix_s,
                "silent": silent_unix_s,
                "task": rollout.task,
                "sequence": rollout.sequence,
            },
        ).fetchone()
        return Counts(**dict(zip([f.name for f in fields(Counts)], row, strict=True)))

    def heard_of(self, task: str, channel: str, since_unix_s: float) -> list[str]:
        """The nodes of a channel that spoke since then."""
        rows = self._db.execute(
            "SELECT node FROM nodes WHERE task = ? AND channel = ? AND seen_unix_s >= ?",
            (task, channel, since_unix_s),
        )
        return [str(row[0]) for row in rows]

    def offer(self, sequence: int, node: str, now: float) -> None:
        """Remembers that a node may have a release; the first time counts."""
        self._db.execute(
            "INSERT OR IGNORE INTO offers (sequence, node, offered_unix_s) VALUES (?, ?, ?)",
            (sequence, node, now),
        )

    def outcome(self, sequence: int, node: str) -> Outcome:
        """What became of a release on a node."""
        row = self._db.execute(
            "SELECT outcome FROM offers WHERE sequence = ? AND node = ?", (sequence, node)
        ).fetchone()
        return Outcome(row[0]) if row else Outcome.OPEN

    def decide(self, sequence: int, node: str, outcome: Outcome, now: float) -> None:
        """Remembers what became of an offer; a node counts once, and its latest word holds."""
        self._db.execute(
            "UPDATE offers SET outcome = ?, decided_unix_s = ? "
            "WHERE sequence = ? AND node = ? AND outcome != ?",
            (outcome.value, now, sequence, node, outcome.value),
        )

    def note_pairs(self, sequence: int, node: str, wins: int, losses: int) -> None:
        """Remembers a node's paired evidence; its reports are cumulative and may start again."""
        self._db.execute(
            "UPDATE offers SET wins = max(wins, ?), losses = max(losses, ?) "
            "WHERE sequence = ? AND node = ?",
            (wins, losses, sequence, node),
        )

    def pin(self, node: str, task: str, bundle: str) -> None:
        """Keeps a node at a bundle."""
        self._db.execute("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", (node, task, bundle))

    def unpin(self, node: str, task: str) -> None:
        """Lets a node go."""
        self._db.execute("DELETE FROM pins WHERE node = ? AND task = ?", (node, task))

    def pinned_nodes(self, task: str) -> set[str]:
        """The nodes of a task that are kept anywhere."""
        rows = self._db.execute("SELECT node FROM pins WHERE task = ?", (task,))
        return {str(row[0]) for row in rows}

    def pinned(self, node: str, task: str) -> str | None:
        """The bundle a node is kept at; empty for where it is, None when it is not kept."""
        row = self._db.execute(
            "SELECT bundle FROM pins WHERE node = ? AND task = ?", (node, task)
        ).fetchone()
        return str(row[0]) if row else None


def _rollout(row: tuple[object, ...]) -> RolloutState:
    plain = dict(zip([field.name for field in fields(RolloutState)], row, strict=True))
    return RolloutState(**{**plain, "phase": Phase(str(plain["phase"]))})  # type: ignore[arg-type]
