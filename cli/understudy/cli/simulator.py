"""The loop over one's own data, in this process: the real client, policy, log, nights and bundles.

Only the network is left out: the client talks to teacher and log through its own ports.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import typer

from understudy.cli.days import totals
from understudy.cli.folder import discarded, prepare_folder
from understudy.cli.local_cloud import LocalCloud
from understudy.cli.local_watch import LocalWatch
from understudy.cli.night_line import night_reason, refresh_reason
from understudy.cli.output import progress
from understudy.cli.report import NightLine, StreamReport
from understudy.cli.rows import Row
from understudy.cli.simulator_setup import Setup, SimulateOptions, set_up
from understudy.cli.stream import Played, WorldState, newest_lessons, play
from understudy.cli.teachers import check_labels
from understudy.cli.terms import night_calls_of
from understudy.cloud.log.sqlite import SqliteLog
from understudy.distill_loop.night import Sources
from understudy.distill_loop.refresh import RefreshResult, refresh_head
from understudy.distill_loop.run import first_student, run_night
from understudy.distill_loop.workspace import Workspace
from understudy.edge import EdgeClient
from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.config import AuditConfig, EdgeConfig, UpdaterConfig
from understudy.edge.node import NodeView
from understudy.edge.student import Student
from understudy.types.answer import Answer, Source
from understudy.types.records import LoggedRow, TeacherLabel

DEADLINE_MS = 60_000.0
CHECK_IN_REQUESTS = 25
"""Requests between two check-ins of the client, which has no clock to go by."""


def simulate(options: SimulateOptions) -> StreamReport:
    """Plays the stream to its end.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If recipe, budget or teacher cannot be used.
    """
    begun = time.monotonic()
    setup = set_up(options)
    if setup.advice:
        typer.echo(f"understudy: {setup.advice}", err=True)
    prepare_folder(options.out)
    with SimulatedWorld(setup) as world:
        with progress("teaching the first student", 1) as bar, discarded(options.out):
            world.start()
            bar.advance()
        with progress("playing the days", setup.requests) as bar:
            played = play(setup.days, world, bar)
    return _report(setup, played, world, time.monotonic() - begun)


class SimulatedWorld:
    """Implements `World` in this process; a context manager that ends its threads."""

    def __init__(self, setup: Setup) -> None:
        self._setup, out = setup, setup.options.out
        self._stack = ExitStack()
        self._log = SqliteLog(out / "log.db")
        self._stack.callback(self._log.close)
        self._cloud = LocalCloud(setup.teacher, self._log, setup.calls)
        self._stack.callback(self._cloud.close)
        recipe = setup.recipe
        self._watch = LocalWatch(self._log, out / "watch.db", recipe.task, recipe.contract)
        self._stack.callback(self._watch.close)
        self._workspace = Workspace(out / "nights")
        self._said: dict[str, str] = {}
        self._client: EdgeClient | None = None
        self._view: NodeView | None = None
        self._bundle: Path | None = None
        self._logged_after = self._fresh_labels = self._asked = 0
        self._mornings: set[Path] = set()
        self.bytes_shipped = self.refreshes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def client(self) -> EdgeClient:
        """The embedded client."""
        if self._client is None:
            raise RuntimeError("start() comes first")
        return self._client

    def start(self) -> None:
        """Loads the teacher, teaches the first student, opens the client."""
        self._cloud.start()
        check_labels(self._setup.teacher.info(), self._setup.labels)
        first = first_student(self._setup.recipe, self._workspace, self._setup.seed)
        folder = first.directory
        config = EdgeConfig(
            bundle=str(folder),
            task=self._setup.recipe.task,
            deadline_ms=DEADLINE_MS,
            contract=self._setup.edge,
            audit=AuditConfig(rate=self._setup.terms.audit_rate),
            updater=UpdaterConfig(enabled=False),
        )
        self._client = self._stack.enter_context(EdgeClient.open(config, cloud=self._cloud))
        self._view = NodeView(self._client.runtime)
        self._bundle = folder
        self._watch.release(folder)

    def state(self) -> WorldState:
        status = self.client.status()
        if self._bundle is not None:
            self._mornings.add(self._bundle)
        return WorldState(
            threshold=status.threshold, certified=status.certified, bundle=status.bundle
        )

    def ask(self, row: Row) -> Answer:
        answer = self.client.predict(row.text)
        self._asked += 1
        if self._asked % CHECK_IN_REQUESTS == 0:
            self._check_in()
        self._fresh_labels += answer.source is Source.TEACHER
        if 0 < self._setup.terms.refresh_every <= self._fresh_labels:
            before = self._bundle
            self._refresh()
            self.refreshes += 1
            self._forget(before)
        return answer

    def settle(self) -> None:
        self.client.flush(600.0)
        self._check_in()

    def logged(self) -> Mapping[str, LoggedRow]:
        rows = list(self._log.scan(self._logged_after))
        self._logged_after = max((row.sequence for row in rows), default=self._logged_after)
        return {row.record.event_id: row for row in rows}

    def shadow(self, rows: Sequence[Row]) -> Sequence[str]:
        """The teacher's word, off the record; a gateway is not asked for the report's sake."""
        if self._setup.options.teacher.startswith("gateway:"):
            return [""] * len(rows)
        new = [row.text for row in rows if row.text not in self._said]
        for text, label in zip(new, self._cloud.score(new), strict=True):
            self._said[text] = label.label if isinstance(label, TeacherLabel) else ""
        return [self._said[row.text] for row in rows]

    def night(self, day: int) -> NightLine | None:
        """A whole night; one that trains no encoder is a refresh."""
        if not self._setup.recipe.distil.epochs:
            return self._quiet_night(day)
        begun = time.monotonic()
        teacher = self._cloud if night_calls_of(self._setup.recipe) else None
        result = run_night(
            self._setup.recipe, self._workspace, self._sources(), name=f"day-{day}", teacher=teacher
        )
        return NightLine(
            day=day,
            verdict=result.ruling.value,
            reason=night_reason(result),
            bundle=result.bundle,
            seconds=time.monotonic() - begun,
            rows=result.rows.get("train", 0),
            bytes_shipped=self._take(result.directory),
            teacher_calls=result.teacher_calls,
        )

    def test_accuracy(self) -> float | None:
        if not self._setup.test or self._bundle is None:
            return None
        bundle = read_bundle(self._bundle)
        output = Student.load(bundle).run([row.text for row in self._setup.test])
        labels = bundle.manifest.labels
        said: list[str] = [labels[int(index)] for index in output.logits.argmax(axis=1)]
        right = [a == row.label for a, row in zip(said, self._setup.test, strict=True)]
        return sum(right) / len(right)

    def _check_in(self) -> None:
        """The client hears what the watch made of the log; all that was answered is in it."""
        if self._view is None or not self._watch.watches(self.client.status().bundle):
            return
        self.client.flush(600.0)
        self._view.obey(self._watch.check_in(self._view.status()))

    def _quiet_night(self, day: int) -> NightLine:
        begun = time.monotonic()
        result, shipped = self._refresh()
        return NightLine(
            day=day,
            verdict=result.ruling.value,
            reason=refresh_reason(result),
            bundle=result.bundle,
            seconds=time.monotonic() - begun,
            rows=result.rows.get("train", 0),
            bytes_shipped=shipped,
        )

    def _refresh(self) -> tuple[RefreshResult, int]:
        """The quick way, also in mid-day: head, prototypes and calibration."""
        self._fresh_labels = 0
        self.settle()
        result = refresh_head(self._setup.recipe, self._workspace, self._sources())
        return result, self._take(result.directory)

    def _sources(self) -> Sources:
        return Sources(
            log=self._log.scan(),
            seed=self._setup.seed,
            champion=self._bundle,
            changes=self._watch.changes(),
        )

    def _forget(self, directory: Path | None) -> None:
        """Deletes a student of a few hours: dozens of them would fill the disk.

        Those that a day began with stay: the report names them.
        """
        if directory is None or directory == self._bundle or directory in self._mornings:
            return
        shutil.rmtree(directory)
        shutil.rmtree(self._workspace.path("checkpoints", directory.name), ignore_errors=True)

    def _take(self, directory: Path) -> int:
        """Swaps the client to a new bundle; returns the bytes that would have travelled."""
        if self._bundle is None or directory == self._bundle:
            return 0
        old, new = read_bundle(self._bundle), read_bundle(directory)
        self._watch.release(directory)
        self.client.swap(new)
        self._bundle = directory
        travelled = _changed_bytes(old, new)
        self.bytes_shipped += travelled
        return travelled


def _changed_bytes(old: Bundle, new: Bundle) -> int:
    """Bytes of the files that differ: unchanged files never travel."""
    known = {entry.sha256 for entry in old.manifest.files.values()}
    return sum(e.size for e in new.manifest.files.values() if e.sha256 not in known)


def _report(setup: Setup, played: Played, world: SimulatedWorld, seconds: float) -> StreamReport:
    options, terms = setup.options, setup.terms
    return StreamReport(
        title=f"Understudy: {options.stream.name}",
        contract=setup.recipe.contract,
        days=tuple(played.days),
        totals=totals(
            played.seen,
            night_calls=played.night_calls,
            bytes_shipped=world.bytes_shipped,
            seconds=seconds,
        ),
        nights=tuple(played.nights),
        lessons=newest_lessons(played.lessons),
        facts=(
            ("teacher", options.teacher),
            ("recipe", terms.recipe),
            ("audit rate", f"{terms.audit_rate:g}"),
            ("budget", f"{terms.budget:g}"),
            ("order of the stream", setup.order.value),
            ("refreshes by day", f"{world.refreshes}"),
        ),
    )
