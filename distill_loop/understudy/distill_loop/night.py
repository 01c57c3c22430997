"""What the steps of one night share: recipe, inputs, champion, base, and the tallies.

The steps themselves live in `harvest` (rows), `schooling` (the encoder) and `proving` (head,
calibration, certificate, gate, bundle); `run.run_night` puts them in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from understudy.distill_loop.base import Base, find_base
from understudy.distill_loop.discover import approved_rows
from understudy.distill_loop.lesson import VectorCache, by_torch, label_set
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds
from understudy.distill_loop.student import StudentModel, whole_base
from understudy.distill_loop.teacher import KeptTeacher, NightTeacher
from understudy.distill_loop.workspace import Workspace
from understudy.edge.bundle import Bundle, read_bundle
from understudy.types.records import LoggedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a night starts from.

    Attributes:
        log: Rows of the escalation log.
        seed: Rows labelled by a person; they always train.
        files: Further such rows.
        unlabelled: Texts like those of the traffic; they teach the encoder only.
        champion: Folder of the bundle in use; None for a first student.
        pinned: Rows that must not break.
        gold: Rows labelled by a person that only judge.
        foreign: Texts outside every class, that only judge.
        approved: New classes that a person approved.
        now_unix_s: When the night is, seconds since 1970; 0 for now.
        changes: Sequences of the log at which the live watch last heard that traffic had changed,
            by slice, "" for all of it (`cloud.watch.last_changes`); rows up to there certify
            nothing, or not that slice.
    """

    log: Iterable[LoggedRow] = ()
    seed: tuple[Example, ...] = ()
    files: tuple[Example, ...] = ()
    unlabelled: tuple[str, ...] = ()
    champion: Path | None = None
    pinned: tuple[Example, ...] = ()
    gold: tuple[Example, ...] = ()
    foreign: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    now_unix_s: float = 0.0
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Night:
    """One night's inputs and tallies.

    Attributes:
        recipe: What to do.
        workspace: Where to keep it.
        sources: What to start from.
        name: Name of the night; empty for a refresh.
        teacher: Asked within the budget; None when it is not there.
        progress: Called with a stage's name and its share done.
        counts: Rows by what became of them.
        seconds: Wall time by stage.
        figures: Numbers for the report.
        replay: Rows to keep for later nights, once this one has ended.
        changed_unix_s: When traffic last changed, gateway clock; 0 if it is not known to have.
    """

    recipe: Recipe
    workspace: Workspace
    sources: Sources
    name: str = ""
    teacher: NightTeacher | None = None
    progress: Callable[[str, float], None] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    replay: tuple[Example, ...] = ()
    changed_unix_s: float = 0.0

    @cached_property
    def now_unix_s(self) -> float:
        """The one time of the night: when it first began, however often it is resumed."""
        now = self.sources.now_unix_s or time.time()
        return self.workspace.begin(self.name, now) if self.name else now

    @cached_property
    def kept_teacher(self) -> KeptTeacher | None:
        """The teacher, if there is one, with every answer kept."""
        if self.teacher is None:
            return None
        return KeptTeacher(self.teacher, self.workspace.path("answers.jsonl"), self.name)

    @property
    def teacher_calls(self) -> int:
        """Answers that this night has asked the teacher for."""
        return self.kept_teacher.calls if self.kept_teacher is not None else 0

    @cached_property
    def champion(self) -> Bundle | None:
        """The bundle in use, verified; its portable student, whatever this machine's CPU is."""
        found = self.sources.champion
        return read_bundle(found).without_variants() if found else None

    @property
    def champion_id(self) -> str:
        """Its id; empty without champion."""
        return self.champion.id if self.champion else ""

    @property
    def champion_labels(self) -> tuple[str, ...]:
        """Its classes; none without champion."""
        return self.champion.manifest.labels if self.champion else ()

    @cached_property
    def base(self) -> Base:
        """The pretrained base."""
        return find_base(self.recipe.student.base)

    @cached_property
    def base_model(self) -> StudentModel:
        """The base as a frozen encoder."""
        return whole_base(self.base)

    @cached_property
    def cache(self) -> VectorCache:
        """The base's sentence vectors, kept between nights."""
        path = self.workspace.path(f"vectors-{self.base.sha256[:16]}.npz")
        return VectorCache(path, by_torch(self.base_model))

    def checkpoint(self, bundle: str) -> Path:
        """Where the float weights of a bundle's encoder lie, if they do."""
        return self.workspace.folder / "checkpoints" / bundle

    def labels(self, folds: Folds) -> tuple[str, ...]:
        """Tonight's classes: the champion's keep their places."""
        return self.label_names(folds.train)

    def label_names(self, rows: Iterable[Example]) -> tuple[str, ...]:
        """Classes known before, and those that these training rows add."""
        known = (
            *self.champion_labels,
            *self.recipe.labels,
            *self.sources.approved,
            *(row.label for row in (*self.sources.seed, *self.sources.files) if row.label),
            *(row.label for row in approved_rows(self.workspace)),
        )
        return label_set(known, rows, new_class_rows=self.recipe.data.new_class_rows)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and tells how far the night is."""
        self.tell(name, 0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.tell(name, 1.0)

    def tell(self, name: str, done: float) -> None:
        """Tells a stage's share done."""
        if self.progress is not None:
            self.progress(name, done)
