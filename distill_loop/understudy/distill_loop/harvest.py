"""The steps over rows: collect, curate, label, split.

Law: what calibrates, certifies or judges stays as the traffic sent it. Only rows that train are
deduplicated, cleaned, weighed and added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.augment import augment, word_neighbours
from understudy.distill_loop.clean import dedup_near, label_issues
from understudy.distill_loop.curate import (
    cap_nodes,
    dedup_exact,
    readable,
    redact_rows,
    unique_ids,
    within,
)
from understudy.distill_loop.discover import (
    APPROVED,
    approved_rows,
    keep_proposals,
    propose,
    unknown_rows,
)
from understudy.distill_loop.generate import generate
from understudy.distill_loop.lesson import label_index
from understudy.distill_loop.naming import name_examples
from understudy.distill_loop.night import Night
from understudy.distill_loop.plugins import find_plugin
from understudy.distill_loop.replay import read_buffer, refill, write_buffer
from understudy.distill_loop.rows import Example, Origin, from_log, text_key, with_teacher
from understudy.distill_loop.select import choose
from understudy.distill_loop.split import Folds, split
from understudy.edge.student import Student
from understudy.types.errors import DataError

MIN_PROPOSAL = 15
"""Fewer rows than this are not worth a person's time."""


def collect(night: Night) -> tuple[Example, ...]:
    """Rows of the log, the seed, the replay buffer and unlabelled texts, each id once.

    Raises:
        DataError: If no row has a label.
    """
    with night.stage("collect"):
        loose = night.recipe.split.uncertified_unbiased
        seen = [row for row in night.sources.log if row.logged_unix_s <= night.now_unix_s]
        changes = night.sources.changes
        before = (row.logged_unix_s for row in seen if row.sequence <= changes.get("", 0))
        night.changed_unix_s = max(before, default=0.0)
        logged = from_log(seen, uncertified_unbiased=loose, changes=changes)
        texts = (
            Example(id=f"text-{i}", text=text, origin=Origin.UNLABELLED)
            for i, text in enumerate(night.sources.unlabelled)
        )
        replayed = read_buffer(_buffer(night))
        approved = approved_rows(night.workspace)
        settled = settle(logged, approved)
        fresh = within(settled, night.now_unix_s, night.recipe.data.window_days)
        filed = (*night.sources.seed, *night.sources.files, *approved)
        brought = _brought(night)
        rows = unique_ids(readable((*filed, *brought, *fresh, *replayed, *texts)))
        night.counts |= {"logged": len(logged), "seed": len(night.sources.seed)}
        night.counts |= {"files": len(night.sources.files), "replayed": len(replayed)}
        if not any(row.target for row in rows):
            raise DataError("there is no labelled row: a night needs seed or teacher labels")
        return rows


def settle(logged: tuple[Example, ...], approved: tuple[Example, ...]) -> tuple[Example, ...]:
    """Logged rows that a person has made examples of a class have that class, wherever they judge.

    The teacher did not know it when it was asked: its word would count a right answer as wrong.
    """
    named = {row.id.removeprefix(APPROVED): row.label for row in approved}
    return tuple(
        replace(row, label=named[row.id], teacher=None) if row.id in named else row
        for row in logged
    )


def _brought(night: Night) -> tuple[Example, ...]:
    """Rows of other packages' sources; none of them may certify, whatever they say."""
    brought = (
        row
        for name in night.recipe.sources.plugins
        for row in find_plugin("source", name)(night.recipe)
    )
    return tuple(replace(row, unbiased=False) for row in brought)


def label(night: Night, rows: tuple[Example, ...]) -> tuple[Example, ...]:
    """Asks the teacher for what is missing: audits first, then what the champion is unsure of."""
    with night.stage("label"):
        wanted = [i for i, row in enumerate(rows) if row.teacher is None and not row.label]
        budget = night.recipe.data.teacher_budget
        teacher = night.kept_teacher
        if teacher is None or not wanted or budget <= 0:
            return rows
        audits = [i for i in wanted if rows[i].unbiased][:budget]
        others = [i for i in wanted if not rows[i].unbiased]
        picked = [*audits, *_pick(night, rows, others, budget - len(audits))]
        answers = teacher.label([rows[i].text for i in picked], night.recipe.labels)
        labelled = list(rows)
        for i, answer in zip(picked, answers, strict=True):
            labelled[i] = rows[i] if answer is None else with_teacher(rows[i], answer)
        return tuple(labelled)


def _pick(night: Night, rows: Sequence[Example], places: list[int], budget: int) -> list[int]:
    """The places whose label would teach most, by the champion's own doubts."""
    if night.champion is None or budget >= len(places):
        return places[: max(budget, 0)]
    output = Student.load(night.champion).run([rows[i].text for i in places])
    best = choose(
        night.champion.head, output, budget, night.recipe.data.strategy, night.recipe.seed
    )
    return [places[i] for i in best]


def deal(night: Night, rows: tuple[Example, ...]) -> Folds:
    """Rows by use; those that train are then curated."""
    folds = split(rows, night.recipe.split)
    with night.stage("curate"):
        folds = replace(folds, train=curate(night, folds.train))
        folds = replace(folds, train=(*folds.train, *_names(night, folds)))
    night.counts |= {
        "train": len(folds.train),
        "calibration": len(folds.calibration),
        "gate": len(folds.gate),
        "certificate": len(folds.certificate),
    }
    return folds


def _names(night: Night, folds: Folds) -> tuple[Example, ...]:
    """The names of tonight's classes, if the recipe reads them; none that is there already."""
    if not night.recipe.data.names:
        return ()
    known = {text_key(row.text) for row in (*folds.train, *folds.gate)}
    names = name_examples(night.labels(folds))
    return tuple(row for row in names if text_key(row.text) not in known)


def curate(night: Night, rows: Sequence[Example]) -> tuple[Example, ...]:
    """Training rows made fit to learn from."""
    data = night.recipe.data
    kept = dedup_exact(redact_rows(rows) if data.redact else rows)
    if data.near_jaccard > 0:
        kept = dedup_near(kept, data.near_jaccard)
    night.counts["duplicates"] = len(rows) - len(kept)
    if data.max_drop > 0:
        kept = _without_issues(night, kept)
    kept = cap_nodes(kept, data.max_per_node)
    for name in data.ops:
        kept = tuple(find_plugin("op", name)(kept, night.recipe))
    night.replay = refill(kept, data, night.recipe.seed)
    return kept


def _without_issues(night: Night, rows: tuple[Example, ...]) -> tuple[Example, ...]:
    """Drops the rows whose teacher label is least likely, as seen by heads that never saw them."""
    labels = night.label_names(rows)
    index = label_index(rows, labels)
    vectors = night.cache.vectors([row.text for row in rows])
    noisy, issues = label_issues(vectors, index, night.recipe)
    night.figures["label_issue_share"] = noisy
    doubtful = [i for i in issues if rows[i].origin is not Origin.SEED]
    dropped = set(doubtful[: int(night.recipe.data.max_drop * len(rows))])
    night.counts["mislabelled"] = len(dropped)
    night.figures["dropped_ids"] = sorted(rows[i].id for i in dropped)[:100]
    return tuple(row for i, row in enumerate(rows) if i not in dropped)


def enrich(night: Night, folds: Folds) -> Folds:
    """Training rows with generated examples for thin classes, and variants of all of them."""
    with night.stage("enrich"):
        train = folds.train
        if night.kept_teacher is not None and night.recipe.data.generate:
            made = generate(night.kept_teacher, train, night.labels(folds), night.recipe)
            night.counts["generated"] = len(made)
            train = dedup_exact((*train, *made))
        return replace(folds, train=train)


def propose_classes(night: Night, rows: Sequence[Example], folds: Folds) -> None:
    """Writes down clusters of requests that no class fits, for a person to look at."""
    labels = night.labels(folds)
    settled = {row.id for row in approved_rows(night.workspace)}
    strange = [row for row in unknown_rows(rows, labels) if f"{APPROVED}{row.id}" not in settled]
    if len(strange) < MIN_PROPOSAL:
        return
    with night.stage("discover"):
        names, centres = _centres(night, folds, labels)
        vectors = night.cache.vectors([row.text for row in strange])
        found = propose(strange, vectors, centres, names, min_rows=MIN_PROPOSAL)
        keep_proposals(night.workspace, found)
        night.counts["proposals"] = len(found)


def _centres(
    night: Night, folds: Folds, labels: Sequence[str]
) -> tuple[list[str], NDArray[np.float32]]:
    """Mean vector, made unit, of each class that has training rows."""
    vectors = night.cache.vectors([row.text for row in folds.train])
    index = label_index(folds.train, labels)
    present = [i for i in range(len(labels)) if (index == i).any()]
    means = [vectors[index == i].mean(0) for i in present]
    unit = [mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means]
    size = vectors.shape[1]
    return [labels[i] for i in present], np.array(unit, np.float32).reshape(-1, size)


def variants(night: Night, rows: Sequence[Example]) -> tuple[Example, ...]:
    """Augmented texts of tonight's training rows; none when the recipe asks for none."""
    factor = night.recipe.distil.augment
    if not factor:
        return ()
    words = night.base_model.encoder.words.weight.detach().numpy()
    near = word_neighbours([row.text for row in rows], night.base.tokenizer, np.asarray(words))
    return augment(rows, factor, night.recipe.seed, near)


def keep_buffer(night: Night) -> None:
    """Replaces the replay buffer; last of all, so that a resumed night reads what this one read."""
    write_buffer(_buffer(night), night.replay)


def _buffer(night: Night) -> Path:
    return night.workspace.path("replay.jsonl")
