"""The loop over one's own data, in this process: the real client, policy, log, nights and bundles.

Only the network is left out: the client talks to teacher and log through its own ports.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from understudy.cli.days import totals
from understudy.cli.folder import prepare_folder
from understudy.cli.local_cloud import LocalCloud
from understudy.cli.night_line import night_reason
from understudy.cli.night_inputs import as_examples
from understudy.cli.output import progress
from understudy.cli.report import NightLine, StreamReport
from understudy.cli.rows import Row, read_rows, require_labels
from understudy.cli.stream import Played, WorldState, newest_lessons, play
from understudy.cli.teachers import make_teacher
from understudy.cloud.log.sqlite import SqliteLog
from understudy.distill_loop.night import Sources
from understudy.distill_loop.recipe import Recipe, load_recipe
from understudy.distill_loop.refresh import refresh_head
from understudy.distill_loop.rows import Example
from understudy.distill_loop.run import first_student, run_night
from understudy.distill_loop.workspace import Workspace
from understudy.edge import EdgeClient
from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.config import AuditConfig, ContractConfig, EdgeConfig, UpdaterConfig
from understudy.edge.student import Student
from understudy.types.answer import Answer, Source
from understudy.types.contract import Contract, Precedence
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow, TeacherLabel

DEADLINE_MS = 60_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What a person may choose.

    Attributes:
        seed: Labelled rows the student starts from.
        stream: The traffic, in order.
        test: Held-out labelled rows; None for none.
        out: Folder of everything the simulation makes.
        teacher: Its name, as on the command line.
        contract: What is promised.
        audit_rate: Share of requests whose coin falls.
        budget: Largest share of teacher calls; 1 for no limit.
        days: Parts the stream is cut into, where rows do not name their day.
        recipe: Recipe of the nights.
        rng: Seed of the nights.
        node: Folder of an enrolled node, for a gateway elsewhere.
        refresh_every: Head-only refresh after so many new teacher answers; 0 for nights only.
    """

    seed: Path
    stream: Path
    out: Path
    test: Path | None = None
    teacher: str = "replay"
    contract: Contract
    audit_rate: float = 0.05
    budget: float = 1.0
    days: int = 5
    recipe: str = "intents-default"
    rng: int = 17
    node: Path | None = None
    refresh_every: int = 0


def simulate(options: SimulateOptions) -> StreamReport:
    """Plays the stream to its end.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If recipe or teacher cannot be used.
    """
    begun = time.monotonic()
    seed, stream = read_rows(options.seed), read_rows(options.stream)
    require_labels(options.seed, seed)
    test = read_rows(options.test) if options.test else ()
    days = split_days(stream, options.days)
    prepare_folder(options.out)
    with SimulatedWorld(options, seed, stream, test) as world:
        with progress("teaching the first student", 1) as bar:
            world.start()
            bar.advance()
        with progress("playing the days", len(stream)) as bar:
            played = play(days, world, bar)
    return _report(options, played, world, time.monotonic() - begun)


def split_days(rows: Sequence[Row], days: int) -> tuple[tuple[Row, ...], ...]:
    """Cuts a stream into days: by the rows' own days if all name one, else into equal parts."""
    if all(row.day > 0 for row in rows):
        last = max(row.day for row in rows)
        return tuple(tuple(r for r in rows if r.day == day) for day in range(1, last + 1))
    if len(rows) < days:
        raise DataError(f"{len(rows)} rows cannot be cut into {days} days; choose fewer --days")
    bounds = [round(index * len(rows) / days) for index in range(days + 1)]
    return tuple(tuple(rows[a:b]) for a, b in pairwise(bounds))


class SimulatedWorld:
    """Implements `World` in this process; a context manager that ends its threads."""

    def __init__(
        self,
        options: SimulateOptions,
        seed: Sequence[Row],
        stream: Sequence[Row],
        test: Sequence[Row],
    ) -> None:
        recipe = load_recipe(options.recipe)
        self.recipe: Recipe = dataclasses.replace(
            recipe, seed=options.rng, contract=_contract(options)
        )
        self._options, self._test = options, test
        self._seed: tuple[Example, ...] = as_examples(tuple(seed))
        self._stack = ExitStack()
        labels = tuple(sorted({row.recorded for row in seed}))
        self._log = SqliteLog(options.out / "log.db")
        self._stack.callback(self._log.close)
        teacher = make_teacher(options.teacher, stream, labels, node=options.node)
        self._cloud = LocalCloud(teacher, self._log)
        self._stack.callback(self._cloud.close)
        self._workspace = Workspace(options.out / "nights")
        self._said: dict[str, str] = {}
        self._client: EdgeClient | None = None
        self._bundle: Path | None = None
        self._logged_after = self._fresh_labels = 0
        self.bytes_shipped = 0

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
        first = first_student(self.recipe, self._workspace, self._seed)
        options, folder = self._options, first.directory
        config = EdgeConfig(
            bundle=str(folder),
            task=self.recipe.task,
            deadline_ms=DEADLINE_MS,
            contract=ContractConfig(
                max_teacher_share=options.budget, precedence=self.recipe.contract.precedence
            ),
            audit=AuditConfig(rate=options.audit_rate),
            updater=UpdaterConfig(enabled=False),
        )
        self._client = self._stack.enter_context(EdgeClient.open(config, cloud=self._cloud))
        self._bundle = folder

    def state(self) -> WorldState:
        status = self.client.status()
        return WorldState(
            threshold=status.threshold, certified=status.certified, bundle=status.bundle
        )

    def ask(self, row: Row) -> Answer:
        answer = self.client.predict(row.text)
        self._fresh_labels += answer.source is Source.TEACHER
        if 0 < self._options.refresh_every <= self._fresh_labels:
            self._fresh_labels = 0
            self._refresh()
        return answer

    def settle(self) -> None:
        self.client.flush(600.0)

    def logged(self) -> Mapping[str, LoggedRow]:
        rows = list(self._log.scan(self._logged_after))
        self._logged_after = max((row.sequence for row in rows), default=self._logged_after)
        return {row.record.event_id: row for row in rows}

    def shadow(self, rows: Sequence[Row]) -> Sequence[str]:
        """The teacher's word, off the record; a gateway is not asked for the report's sake."""
        if self._options.teacher.startswith("gateway:"):
            return [""] * len(rows)
        new = [row.text for row in rows if row.text not in self._said]
        for text, label in zip(new, self._cloud.score(new), strict=True):
            self._said[text] = label.label if isinstance(label, TeacherLabel) else ""
        return [self._said[row.text] for row in rows]

    def night(self, day: int) -> NightLine | None:
        """A whole night; the encoder learns."""
        begun = time.monotonic()
        sources = Sources(log=self._log.scan(), seed=self._seed, champion=self._bundle)
        result = run_night(self.recipe, self._workspace, sources, name=f"day-{day}")
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
        if not self._test or self._bundle is None:
            return None
        bundle = read_bundle(self._bundle)
        output = Student.load(bundle).run([row.text for row in self._test])
        labels = bundle.manifest.labels
        said: list[str] = [labels[int(index)] for index in output.logits.argmax(axis=1)]
        right = [a == row.label for a, row in zip(said, self._test, strict=True)]
        return sum(right) / len(right)

    def _refresh(self) -> None:
        """The quick way in mid-day: head, prototypes and calibration."""
        self.settle()
        sources = Sources(log=self._log.scan(), seed=self._seed, champion=self._bundle)
        self._take(refresh_head(self.recipe, self._workspace, sources).directory)

    def _take(self, directory: Path) -> int:
        """Swaps the client to a new bundle; returns the bytes that would have travelled."""
        if self._bundle is None or directory == self._bundle:
            return 0
        old, new = read_bundle(self._bundle), read_bundle(directory)
        self.client.swap(new)
        self._bundle = directory
        travelled = _changed_bytes(old, new)
        self.bytes_shipped += travelled
        return travelled


def _changed_bytes(old: Bundle, new: Bundle) -> int:
    """Bytes of the files that differ: unchanged files never travel."""
    known = {entry.sha256 for entry in old.manifest.files.values()}
    return sum(e.size for e in new.manifest.files.values() if e.sha256 not in known)


def _contract(options: SimulateOptions) -> Contract:
    """A budget is a limit: it wins, and answers say that they are not certified while it does."""
    if options.budget < 1.0:
        return dataclasses.replace(options.contract, precedence=Precedence.BUDGET)
    return options.contract


def _report(
    options: SimulateOptions, played: Played, world: SimulatedWorld, seconds: float
) -> StreamReport:
    return StreamReport(
        title=f"Understudy: {options.stream.name}",
        contract=world.recipe.contract,
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
            ("recipe", options.recipe),
            ("audit rate", f"{options.audit_rate:g}"),
            ("budget", f"{options.budget:g}"),
        ),
    )
