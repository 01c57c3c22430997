"""The steps over what ships: head, calibration, certificate, bundle; the gate is in `examining`.

All of them run the compressed graph in the edge's own runner.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.checkpoint import save_model, share_model
from understudy.distill_loop.discover import unknown_rows
from understudy.distill_loop.evidence import Ruling, Verdict
from understudy.distill_loop.lesson import VectorCache
from understudy.distill_loop.night import Night
from understudy.distill_loop.schooling import export, rows_digest
from understudy.distill_loop.split import Folds
from understudy.distill_loop.student import StudentModel
from understudy.distill_loop.taught import Taught
from understudy.distill_loop.variants import variant_files
from understudy.distill_loop.workspace import place
from understudy.edge.bundle import Head
from understudy.edge.student import Student
from understudy.types.bundle import Lineage
from understudy.types.errors import DataError

GOLDEN_ROWS = 16
_MAKERS = ("numpy", "onnx", "onnxruntime", "tokenizers", "torch", "understudy")


@dataclass(frozen=True, slots=True)
class Proved:
    """A candidate that is calibrated and certified, loaded as the edge loads it.

    Attributes:
        candidate: The candidate.
        student: Its runner.
    """

    candidate: Candidate
    student: Student


def prove(night: Night, blank: Candidate, folds: Folds, start: Head | None = None) -> Proved:
    """Fits the head, then the calibration, then certifies; each on rows of its own."""
    with night.stage("head"):
        names = set(blank.labels)
        rows = [row for row in folds.train if row.target in names]
        strange = [r for r in unknown_rows(folds.train, blank.labels) if r.target not in names]
        vectors = _vectors(night, blank, [row.text for row in (*rows, *strange)])
        known, foreign = vectors[: len(rows)], vectors[len(rows) :]
        taught = Taught(rows, known, blank.labels, night.recipe, foreign)
        night.counts["foreign"] = len(strange)
        candidate = taught.fit(blank, start=start)
        student = parts.load(candidate)
    with night.stage("calibrate"):
        held_out = parts.answer(student, folds.calibration)
        few = len(folds.calibration) < parts.MIN_CALIBRATION
        spare = taught.out_of_fold(candidate) if few else None
        candidate = parts.calibrate(candidate, held_out, spare, night.recipe.score)
    with night.stage("certify"):
        return Proved(certified(night, candidate, student, folds), student)


def _vectors(night: Night, blank: Candidate, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of the graph that ships, kept by its digest: a refresh encodes only what is new.

    The key of a text forgets case and white space, so a tokenizer that minds them has no cache.
    """
    student = parts.load(blank)
    if '"lowercase":true' not in blank.tokenizer.decode().replace(" ", ""):
        return student.run(texts).vectors
    extra = b"".join((blank.extra or {}).values())
    graph = hashlib.sha256(blank.encoder + extra + blank.tokenizer).hexdigest()
    path = night.workspace.path(f"student-vectors-{graph[:16]}.npz")
    return VectorCache(path, lambda fresh: student.run(fresh).vectors).vectors(texts)


def certified(night: Night, candidate: Candidate, student: Student, folds: Folds) -> Candidate:
    """The candidate with its certificate, on unbiased rows that nothing was fitted on."""
    rows = folds.certificate
    answers = parts.answer(student, rows)
    return parts.prove(candidate, answers, rows, night.recipe.contract, night.now_unix_s)


def champion_blank(night: Night, folds: Folds) -> Candidate:
    """The champion's encoder without a head, and with tonight's classes."""
    if night.champion is None:
        raise DataError("a refresh needs a champion: run a first night")
    old = parts.from_bundle(night.champion)
    blank = parts.blank(
        old.task,
        night.labels(folds),
        old.encoder,
        old.tokenizer,
        max_tokens=old.max_tokens,
        vector=old.head.weight.shape[1],
        contract=night.recipe.contract,
    )
    return replace(blank, runtime=old.runtime, extra=old.extra)


def champion_of(night: Night) -> Proved | None:
    """The champion with its runner; None when there is none."""
    if night.champion is None:
        return None
    return Proved(parts.from_bundle(night.champion), Student.load(night.champion))


def write(night: Night, proved: Proved, folds: Folds, model: StudentModel | None = None) -> Path:
    """Writes the bundle and its encoder's checkpoint; returns the bundle's folder."""
    with night.stage("write"):
        texts = list(dict.fromkeys(row.text for row in (*night.sources.seed, *folds.train)))
        lineage = Lineage(
            recipe=f"{night.recipe.name} {night.recipe.digest[:16]}",
            teacher=_teacher_id(night, folds),
            data={"train": rows_digest(folds.train), "base": night.base.sha256},
            software={name: version(name) for name in _MAKERS},
        )
        graph = export(night, model, folds) if model is not None else b""
        variants = variant_files(night, proved.candidate, folds, graph, certified)
        extra = {**(proved.candidate.extra or {}), **variants}
        proved = replace(proved, candidate=replace(proved.candidate, extra=extra))
        bundle = _store(night, proved, texts, lineage)
        _keep_checkpoint(night, model, bundle.name)
        return bundle


def choose(night: Night, directory: Path, verdict: Verdict, folds: Folds) -> tuple[Path, bool]:
    """The folder of the bundle to use from now on, and whether the champion was renewed.

    A champion that stays gets tonight's calibration and certificate if that proves more: audited
    rows gather although the weights do not change.
    """
    if verdict.ruling is Ruling.PROMOTE or night.champion is None or not night.sources.champion:
        return directory, False
    if any(check.name == "data" and check.outcome != "pass" for check in verdict.checks):
        return night.sources.champion, False
    renewed = _renewed(night, folds)
    old = night.champion.certificate
    # What was proved about other traffic is no longer a reason to keep it.
    stands = old.certified and old.issued_unix_s >= night.changed_unix_s
    if not _proves_more(renewed.candidate, stands, old.keep_rate):
        return night.sources.champion, False
    return write(night, renewed, folds), True


def _renewed(night: Night, folds: Folds) -> Proved:
    champion = champion_of(night)
    if champion is None:
        raise DataError("there is no champion to renew")
    candidate, student = champion.candidate, champion.student
    if len(folds.calibration) >= parts.MIN_CALIBRATION:
        held_out = parts.answer(student, folds.calibration)
        candidate = parts.calibrate(candidate, held_out, None, night.recipe.score)
    return Proved(certified(night, candidate, student, folds), student)


def _proves_more(candidate: Candidate, certified_before: bool, kept_before: float) -> bool:  # noqa: FBT001 - two plain facts
    if not candidate.certificate.certified:
        return False
    return not certified_before or candidate.certificate.keep_rate > kept_before + 0.01


def _teacher_id(night: Night, folds: Folds) -> str:
    if night.teacher is not None:
        return night.teacher.id
    names = {row.teacher.teacher for row in folds.train if row.teacher is not None}
    return ", ".join(sorted(names))


def _store(night: Night, proved: Proved, texts: Sequence[str], lineage: Lineage) -> Path:
    unfinished = night.workspace.path("bundles", ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    bundle = parts.write(
        proved.candidate,
        unfinished,
        golden=parts.golden_vectors(proved.student, texts[:GOLDEN_ROWS]),
        parent=night.champion_id,
        created_unix_s=night.now_unix_s,
        lineage=lineage,
    )
    target = night.workspace.path("bundles", bundle)
    if target.is_dir():
        shutil.rmtree(unfinished)
    else:
        place(unfinished, target)
    return target


def _keep_checkpoint(night: Night, model: StudentModel | None, bundle: str) -> None:
    """Float weights by bundle; a bundle with the champion's encoder has the champion's."""
    target, before = night.checkpoint(bundle), night.checkpoint(night.champion_id)
    if target.is_dir() or (model is None and not (night.champion_id and before.is_dir())):
        return
    unfinished = night.workspace.path("checkpoints", f".{bundle}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if model is None:
        share_model(before, unfinished)
    else:
        save_model(model, unfinished)
    place(unfinished, target)
