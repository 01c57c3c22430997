"""The steps of one night. Each is a function of what it is given, the recipe and the seed.

`run.run_night` puts them in order. Steps that cost seconds keep what they made in the workspace, by
the digest of their inputs; the others are computed again, which is cheaper than to keep them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.base import Base, find_base
from understudy.distill_loop.build import build_student
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.checkpoint import load_model, save_model
from understudy.distill_loop.compress import compress, parity
from understudy.distill_loop.curate import dedup_exact, readable, redact_rows, within
from understudy.distill_loop.distil import distil
from understudy.distill_loop.evaluation import Exam, sit
from understudy.distill_loop.export import check_parity, export_onnx
from understudy.distill_loop.gate import Evidence, Ruling, Verdict, judge
from understudy.distill_loop.head import apply_head, fit_head
from understudy.distill_loop.lesson import (
    VectorCache,
    head_targets,
    label_index,
    label_set,
    make_lesson,
    soft_labels,
    weights_of,
)
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.rows import Example, Origin, from_log, with_teacher
from understudy.distill_loop.split import Folds, split
from understudy.distill_loop.student import StudentModel, whole_base
from understudy.distill_loop.teacher import NightTeacher
from understudy.distill_loop.workspace import Workspace, place
from understudy.edge.bundle import Bundle, Head, read_bundle
from understudy.edge.student import Student, StudentOutput
from understudy.types.bundle import Lineage
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow

Floats = NDArray[np.float32]
GOLDEN_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a night starts from.

    Attributes:
        log: Rows of the escalation log.
        seed: Rows labelled by a person; they always train.
        unlabelled: Texts like those of the traffic; they teach the encoder only.
        champion: Folder of the bundle in use; None for a first student.
        pinned: Rows that must not break.
        gold: Rows labelled by a person that only judge.
        foreign: Texts outside every class, that only judge.
        approved: New classes that a person approved.
        now_unix_s: When the night is, seconds since 1970; 0 for now.
    """

    log: Iterable[LoggedRow] = ()
    seed: tuple[Example, ...] = ()
    unlabelled: tuple[str, ...] = ()
    champion: Path | None = None
    pinned: tuple[Example, ...] = ()
    gold: tuple[Example, ...] = ()
    foreign: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    now_unix_s: float = 0.0


@dataclass
class Night:
    """One night's recipe, inputs and tallies; the steps are its methods."""

    recipe: Recipe
    workspace: Workspace
    sources: Sources
    teacher: NightTeacher | None
    progress: Callable[[str, float], None] | None
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    teacher_calls: int = 0

    @cached_property
    def now_unix_s(self) -> float:
        """The one time of the night."""
        return self.sources.now_unix_s or time.time()

    # -- data ------------------------------------------------------------------------------------

    def collect(self) -> tuple[Example, ...]:
        """Rows of the log, the seed and unlabelled texts."""
        with self._stage("collect"):
            loose = self.recipe.split.uncertified_unbiased
            logged = from_log(self.sources.log, uncertified_unbiased=loose)
            texts = (
                Example(id=f"text-{i}", text=text, origin=Origin.UNLABELLED)
                for i, text in enumerate(self.sources.unlabelled)
            )
            rows = readable((*self.sources.seed, *logged, *texts))
            self.counts |= {"logged": len(logged), "seed": len(self.sources.seed)}
            if not any(row.target for row in rows):
                raise DataError("there is no labelled row: a night needs seed or teacher labels")
            return rows

    def curate(self, rows: tuple[Example, ...]) -> tuple[Example, ...]:
        """Rows within the window, redacted."""
        with self._stage("curate"):
            rows = within(rows, self.now_unix_s, self.recipe.data.window_days)
            return redact_rows(rows) if self.recipe.data.redact else rows

    def label(self, rows: tuple[Example, ...]) -> tuple[Example, ...]:
        """Asks the teacher for what is missing, audits first, within the budget."""
        with self._stage("label"):
            wanted = [i for i, row in enumerate(rows) if row.teacher is None and not row.label]
            wanted.sort(key=lambda i: not rows[i].unbiased)
            wanted = wanted[: self.recipe.data.teacher_budget]
            if self.teacher is None or not wanted:
                return rows
            answers = self.teacher.label([rows[i].text for i in wanted], self.recipe.labels)
            self.teacher_calls += len(wanted)
            labelled = list(rows)
            for i, answer in zip(wanted, answers, strict=True):
                labelled[i] = rows[i] if answer is None else with_teacher(rows[i], answer)
            return tuple(labelled)

    def split(self, rows: tuple[Example, ...]) -> Folds:
        """Rows by use; only those that train are curated further."""
        folds = split(rows, self.recipe.split)
        folds = replace(folds, train=dedup_exact(folds.train))
        self.counts |= {
            "train": len(folds.train),
            "calibration": len(folds.calibration),
            "gate": len(folds.gate),
            "certificate": len(folds.certificate),
        }
        return folds

    # -- the encoder -----------------------------------------------------------------------------

    def build(self, folds: Folds) -> StudentModel:
        """The champion's encoder if it may start warm, else one cut from the base."""
        with self._stage("build"):
            warm = self.workspace.folder / "checkpoints" / self.champion_id
            if self.champion_id and self.recipe.distil.warm_start and warm.is_dir():
                return load_model(warm)
            texts = [row.text for row in folds.train]
            return build_student(self.recipe.student, self.base, texts)

    def distil(self, model: StudentModel, folds: Folds) -> StudentModel:
        """The encoder after the lesson."""
        with self._stage("distil"):
            if not self.recipe.distil.epochs:
                return model
            inputs = {
                "rows": _rows_digest(folds.train),
                "labels": self.labels(folds),
                "recipe": [asdict(self.recipe.distil), asdict(self.recipe.objective)],
                "student": asdict(self.recipe.student),
                "data": asdict(self.recipe.data),
                "start": self.champion_id if self.recipe.distil.warm_start else "",
                "base": self.base.sha256,
                "seed": self.recipe.seed,
            }
            folder = self.workspace.stage("distil", inputs, self._teach(model, folds))
            return load_model(folder)

    def _teach(self, model: StudentModel, folds: Folds) -> Callable[[Path], None]:
        def fill(folder: Path) -> None:
            vectors = self._cache.vectors([row.text for row in folds.train])
            labels = self.labels(folds)
            lesson = make_lesson(folds.train, labels, vectors, self.recipe.data)
            known = lesson.labels >= 0
            head = fit_head(
                vectors[known], lesson.labels[known], len(labels), recipe=self.recipe.head
            )
            trained = distil(
                model,
                lesson,
                head,
                self.recipe,
                base=self._base_model,
                progress=lambda done, of: self._tell("distil", done / of),
            )
            self.figures |= {"losses": trained.losses, "gradient_share": trained.gradient_share}
            save_model(trained.model, folder)

        return fill

    def export(self, model: StudentModel) -> tuple[StudentModel, bytes]:
        """The encoder as one ONNX file, compared with torch."""
        with self._stage("export"):
            inputs = {"model": _model_digest(model)}

            def fill(folder: Path) -> None:
                graph = export_onnx(model)
                check_parity(model, graph, [row.text for row in self.sources.seed[:8]] or ["hello"])
                (folder / "encoder.onnx").write_bytes(graph)

            folder = self.workspace.stage("export", inputs, fill)
            return model, (folder / "encoder.onnx").read_bytes()

    def compress(self, exported: tuple[StudentModel, bytes], folds: Folds) -> Candidate:
        """The graph that ships, in a candidate without head."""
        model, graph = exported
        with self._stage("compress"):
            texts = [row.text for row in folds.train][:200]
            inputs = {
                "graph": hashlib.sha256(graph).hexdigest(),
                "recipe": asdict(self.recipe.compress),
                "rows": _rows_digest(folds.train)
                if self.recipe.compress.use == "int8_static"
                else "",
            }

            def fill(folder: Path) -> None:
                small, _ = compress(graph, self.recipe.compress, model.tokenizer, texts[:50])
                (folder / "encoder.onnx").write_bytes(small)

            folder = self.workspace.stage("compress", inputs, fill)
            small = (folder / "encoder.onnx").read_bytes()
            self.figures["parity"] = asdict(parity(graph, small, model.tokenizer, texts[:50]))
        spec = model.encoder.spec
        return parts.blank(
            self.recipe.task,
            self.labels(folds),
            small,
            model.tokenizer.encode(),
            max_tokens=spec.positions,
            vector=spec.vector,
            contract=self.recipe.contract,
        )

    # -- head, calibration, certificate ----------------------------------------------------------

    def fit(self, blank: Candidate, folds: Folds, start: Head | None = None) -> Candidate:
        """The candidate with its head, fitted on vectors of the graph that ships."""
        with self._stage("head"):
            rows = [row for row in folds.train if row.target in set(blank.labels)]
            vectors = parts.load(blank).run([row.text for row in rows]).vectors
            self._taught = Taught(rows, vectors, blank.labels, self.recipe)
            return self._taught.fit(blank, start=start)

    def refit(self, folds: Folds) -> Candidate:
        """The champion with a new head; the encoder's bytes stay."""
        if self.champion is None:
            raise DataError("only a champion can be refitted")
        old = parts.from_bundle(self.champion)
        self.figures["parity"] = {"cosine": 1.0}
        labels, size = self.labels(folds), old.head.weight.shape[1]
        blank = parts.blank(
            old.task,
            labels,
            old.encoder,
            old.tokenizer,
            max_tokens=old.max_tokens,
            vector=size,
            contract=self.recipe.contract,
        )
        blank = replace(blank, runtime=old.runtime, extra=old.extra)
        return self.fit(blank, folds, start=old.head)

    def calibrate(self, candidate: Candidate, folds: Folds) -> Candidate:
        """The candidate with its calibration, on rows it did not learn from."""
        with self._stage("calibrate"):
            self._student = parts.load(candidate)
            held_out = parts.answer(self._student, folds.calibration)
            spare = None
            if len(folds.calibration) < parts.MIN_CALIBRATION:
                spare = self._taught.out_of_fold(candidate)
            return parts.calibrate(candidate, held_out, spare, self.recipe.score)

    def certify(self, candidate: Candidate, folds: Folds) -> Candidate:
        """The candidate with its certificate, on unbiased rows nothing was fitted on."""
        with self._stage("certify"):
            rows = folds.certificate
            answers = parts.answer(self._student, rows)
            return parts.prove(candidate, answers, rows, self.recipe.contract, self.now_unix_s)

    # -- the gate --------------------------------------------------------------------------------

    def gate(self, candidate: Candidate, folds: Folds) -> Verdict:
        """Compares champion and challenger on rows that neither learned from."""
        with self._stage("gate"):
            exam = Exam(
                rows=[row for row in folds.gate if row.target],
                certificate=folds.certificate,
                pinned=self.sources.pinned,
                gold=self.sources.gold,
                foreign=self.sources.foreign,
            )
            old = None
            if self.champion is not None:
                before = parts.from_bundle(self.champion)
                old = sit(before, Student.load(self.champion), exam, self.recipe.contract)
            evidence = Evidence(
                new=sit(candidate, self._student, exam, self.recipe.contract),
                old=old,
                slices=exam.slices,
                agreement=float(self.figures["parity"]["cosine"]),
                new_labels=self.counts.get("logged", 0),
                same_classes=set(candidate.labels) == set(self.champion_labels),
            )
            return judge(evidence, self.recipe.gate)

    def write(self, candidate: Candidate, model: StudentModel | None, folds: Folds) -> Path:
        """Writes the bundle, and the encoder's checkpoint if it is new; returns the folder."""
        texts = list(dict.fromkeys(row.text for row in (*self.sources.seed, *folds.train)))
        golden = parts.golden_vectors(self._student, texts[:GOLDEN_ROWS])
        lineage = Lineage(
            recipe=f"{self.recipe.name} {self.recipe.digest[:16]}",
            teacher=self.teacher.id if self.teacher is not None else "",
            data={"train": _rows_digest(folds.train), "base": self.base.sha256},
            software={"understudy": version("understudy")},
        )
        bundle = self._store(candidate, golden, lineage)
        self._keep_checkpoint(model, bundle.name)
        return bundle

    def _keep_checkpoint(self, model: StudentModel | None, bundle: str) -> None:
        """Float weights by bundle: a refreshed bundle shares its champion's."""
        checkpoint = self.workspace.path("checkpoints", bundle)
        if checkpoint.is_dir():
            return
        if model is None:
            before = self.workspace.folder / "checkpoints" / self.champion_id
            if not before.is_dir():
                return
            model = load_model(before)
        unfinished = self.workspace.path("checkpoints", f".{bundle}.unfinished")
        unfinished.mkdir(exist_ok=True)
        save_model(model, unfinished)
        place(unfinished, checkpoint)

    def choose(self, directory: Path, verdict: Verdict) -> tuple[Path, bool]:
        """The folder of the bundle to use from now on, and whether the champion was renewed."""
        if verdict.ruling is Ruling.PROMOTE or self.champion is None or not self.sources.champion:
            return directory, False
        return self.sources.champion, False

    def _store(self, candidate: Candidate, golden: Sequence[Any], lineage: Lineage) -> Path:
        unfinished = self.workspace.path("bundles", ".unfinished")
        bundle = parts.write(
            candidate,
            unfinished,
            golden=golden,
            parent=self.champion_id,
            created_unix_s=self.now_unix_s,
            lineage=lineage,
        )
        target = self.workspace.path("bundles", bundle)
        if target.is_dir():
            return target
        place(unfinished, target)
        return target

    # -- what the steps share --------------------------------------------------------------------

    def labels(self, folds: Folds) -> tuple[str, ...]:
        """Tonight's classes: the champion's keep their places."""
        known = (
            *self.champion_labels,
            *self.recipe.labels,
            *self.sources.approved,
            *(row.label for row in self.sources.seed if row.label),
        )
        return label_set(known, folds.train, new_class_rows=self.recipe.data.new_class_rows)

    @cached_property
    def champion(self) -> Bundle | None:
        """The bundle in use, verified."""
        return read_bundle(self.sources.champion) if self.sources.champion else None

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
    def _base_model(self) -> StudentModel:
        return whole_base(self.base)

    @cached_property
    def _cache(self) -> VectorCache:
        path = self.workspace.path(f"vectors-{self.base.sha256[:16]}.npz")
        return VectorCache(path, self._base_model)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._tell(name, 0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._tell(name, 1.0)

    def _tell(self, name: str, done: float) -> None:
        if self.progress is not None:
            self.progress(name, done)


class Taught:
    """The rows a head learned from: fits heads, and answers out of fold."""

    def __init__(
        self, rows: Sequence[Example], vectors: Floats, labels: tuple[str, ...], recipe: Recipe
    ) -> None:
        if not rows:
            raise DataError("no training row has a label that the student knows")
        self._vectors, self._recipe = vectors, recipe
        self._index = label_index(rows, labels)
        soft = soft_labels(rows, labels)
        self._soft, _ = head_targets(soft, self._index, recipe.objective.cap)
        self._weights = weights_of(rows, self._index, recipe.data)

    def fit(
        self,
        candidate: Candidate,
        rows: NDArray[np.bool_] | None = None,
        start: Head | None = None,
    ) -> Candidate:
        """The candidate with a head fitted on these rows, or on a mask of them."""
        use = np.ones(len(self._index), np.bool_) if rows is None else rows
        return parts.with_head(
            candidate,
            self._vectors[use],
            self._index[use],
            soft=self._soft[use],
            weights=self._weights[use],
            start=start,
            recipe=self._recipe.head,
        )

    def out_of_fold(
        self, candidate: Candidate, folds: int = 3
    ) -> tuple[StudentOutput, NDArray[np.float64]]:
        """Numbers of heads that did not see the row, with their agreement: for the calibration."""
        place = np.random.default_rng(self._recipe.seed).permutation(len(self._index)) % folds
        logits = np.zeros((len(place), len(candidate.labels)), np.float32)
        near = np.zeros(len(place), np.float32)
        for fold in range(folds):
            out = place == fold
            if out.all() or not out.any():
                continue
            head = self.fit(candidate, ~out).head
            logits[out], near[out] = apply_head(head, self._vectors[out])
        output = StudentOutput(logits, self._vectors, near, np.zeros(len(place), np.bool_))
        return output, (logits.argmax(1) == self._index).astype(np.float64)


def _rows_digest(rows: Sequence[Example]) -> str:
    lines = sorted(f"{row.id}\t{row.text}\t{row.target}\t{row.teacher}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _model_digest(model: StudentModel) -> str:
    digest = hashlib.sha256(model.tokenizer.encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
