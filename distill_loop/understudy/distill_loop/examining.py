"""The gate's step: champion and challenger sit the same rows, and the verdict is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.drift import drift
from understudy.distill_loop.evaluation import (
    Exam,
    changed_answers,
    compare_latency,
    learned_answers,
    pictures,
    sit,
)
from understudy.distill_loop.evidence import Evidence, Verdict
from understudy.distill_loop.export import open_graph, run_graph
from understudy.distill_loop.gate import judge
from understudy.distill_loop.head import apply_head
from understudy.distill_loop.night import Night
from understudy.distill_loop.plugins import find_plugin
from understudy.distill_loop.proving import Proved, champion_of
from understudy.distill_loop.rows import Example
from understudy.distill_loop.split import Folds
from understudy.distill_loop.suspicion import (
    contradicted,
    data_alarms,
    suspicious_phrases,
    trigger_pull,
)

AGREEMENT_ROWS = 200
DRIFT_ROWS = 500


@dataclass(frozen=True, slots=True)
class News:
    """Labelled rows before and since the champion was proved.

    Attributes:
        old: Rows with a label from before.
        new: Rows with a teacher's label from since.
    """

    old: tuple[Example, ...] = ()
    new: tuple[Example, ...] = ()


def split_news(folds: Folds, champion: Proved | None) -> News:
    """Rows by whether the champion's certificate was there already.

    What came before a change of traffic says nothing of how much is usual since.
    """
    since = champion.candidate.certificate.issued_unix_s if champion is not None else 0.0
    rows = (*folds.train, *folds.calibration, *folds.gate)
    return News(
        tuple(row for row in rows if row.created_unix_s <= since and row.target and row.current),
        tuple(row for row in rows if row.created_unix_s > since and row.teacher is not None),
    )


def taught_tonight(folds: Folds, news: News, most: int = 500) -> tuple[Example, ...]:
    """The newest rows that trained and had not been there the night before."""
    new = {row.id for row in news.new}
    return tuple(row for row in folds.train if row.id in new)[-most:]


def examine(night: Night, proved: Proved, folds: Folds, graph: bytes | None = None) -> Verdict:
    """Compares champion and challenger on rows that neither learned from.

    Args:
        night: Whose recipe and champion count.
        proved: The challenger.
        folds: Tonight's rows.
        graph: Its graph before compression; None for a refresh, which compresses nothing.
    """
    with night.stage("gate"):
        exam = Exam(
            rows=[row for row in folds.gate if row.target],
            certificate=folds.certificate,
            pinned=night.sources.pinned,
            gold=night.sources.gold,
            foreign=night.sources.foreign,
        )
        contract = night.recipe.contract
        new, old = sit(proved.candidate, proved.student, exam, contract), None
        before = champion_of(night)
        news = split_news(folds, before)
        if before is not None:
            old = sit(before.candidate, before.student, exam, contract)
            # A refresh keeps the encoder: measuring it twice would only measure the neighbours.
            texts = [row.text for row in exam.rows] if graph is not None else []
            pair = compare_latency(before.student, proved.student, texts)
            old, new = replace(old, latency_ms=pair[0]), replace(new, latency_ms=pair[1])
        evidence = Evidence(
            new=new,
            old=old,
            slices=exam.slices,
            agreed=_agreed(proved, graph, exam),
            new_labels=len(news.new),
            same_classes=set(proved.candidate.labels) == set(night.champion_labels),
            alarms=_alarms(night, before, news, folds),
            triggers=_triggers(before, proved, folds, exam),
        )
        night.figures |= pictures(new, old, exam)
        if before is not None:
            pair_of = (before.student, proved.student)
            night.figures["changed"] = changed_answers(*pair_of, exam.rows)
            night.figures["learned"] = learned_answers(*pair_of, taught_tonight(folds, news))
        gate = night.recipe.gate
        return judge(evidence, gate, [find_plugin("check", name) for name in gate.checks])


def _agreed(proved: Proved, graph: bytes | None, exam: Exam) -> NDArray[np.bool_]:
    """Where the graph names the same class before and after compression."""
    texts = [row.text for row in exam.rows][:AGREEMENT_ROWS]
    if graph is None or not texts or proved.candidate.runtime != "onnx":
        return np.zeros(0, np.bool_)
    plain = run_graph(open_graph(graph), proved.candidate.tokenizer.decode(), texts)
    before = apply_head(proved.candidate.head, plain)[0].argmax(1)
    same: NDArray[np.bool_] = before == proved.student.run(texts).logits.argmax(1)
    return same


def _alarms(night: Night, champion: Proved | None, news: News, folds: Folds) -> tuple[str, ...]:
    """What looks wrong with the rows that came since the last night."""
    if champion is None:
        return ()
    answers, confidence, known = _claims(champion, news.new)
    new, old = ([row.target for row in rows] for rows in (news.new, news.old))
    before = champion.student.run([row.text for row in news.old[-DRIFT_ROWS:]]).vectors
    night.figures["drift"] = drift(old, new, before, answers.output.vectors[-DRIFT_ROWS:])
    return data_alarms(
        new=new,
        old=old,
        confidence=confidence,
        agree=np.nan_to_num(answers.agree, nan=1.0),
        known=known,
        growth=night.recipe.data.max_class_growth,
        usual=_usual(champion, news, folds),
    )


def _claims(
    champion: Proved, rows: Sequence[Example]
) -> tuple[parts.Answers, NDArray[np.float64], NDArray[np.bool_]]:
    """What the champion says of rows, how sure it is, and whether it can know their class."""
    answers = parts.answer(champion.student, rows)
    scores = parts.scores_of(champion.candidate, answers.output)
    classes = set(champion.candidate.labels)
    known = np.array([row.target in classes for row in rows], np.bool_)
    return answers, np.asarray(scores.effective), known


def _usual(champion: Proved, news: News, folds: Folds) -> float | None:
    """How often the teacher contradicted it before, on rows that nobody learned from."""
    trained = {row.id for row in folds.train}
    rows = [row for row in news.old if row.teacher is not None and row.id not in trained]
    answers, confidence, known = _claims(champion, rows)
    return contradicted(confidence, np.nan_to_num(answers.agree, nan=1.0), known)


def _triggers(
    champion: Proved | None, proved: Proved, folds: Folds, exam: Exam
) -> dict[str, float]:
    """How far suspicious phrases of the training rows pull ordinary texts."""
    texts = [row.text for row in exam.rows]
    before = champion.student if champion is not None else None
    return {
        phrase: trigger_pull(phrase, label, texts, before, proved.student)
        for phrase, label in suspicious_phrases(folds.train)
    }
