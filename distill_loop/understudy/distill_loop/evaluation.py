"""What a student does on the rows that judge, through the edge's own runner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.candidate import Answers, Candidate, answer, certificate_of, scores_of
from understudy.distill_loop.curate import redact
from understudy.distill_loop.evidence import Sheet
from understudy.distill_loop.rows import Example
from understudy.edge.student import Student
from understudy.types.contract import Certificate, Contract

MAX_DRAWN = 2000
WARM_UP = 2
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The rows both students sit.

    Attributes:
        rows: Rows with a known answer, kept from training.
        certificate: Unbiased rows, kept from training and calibration.
        pinned: Rows that must not break.
        gold: Rows labelled by a person and never trained on.
        foreign: Texts outside every class.
    """

    rows: Sequence[Example]
    certificate: Sequence[Example]
    pinned: Sequence[Example] = ()
    gold: Sequence[Example] = ()
    foreign: Sequence[str] = ()

    @property
    def slices(self) -> dict[str, NDArray[np.bool_]]:
        """Masks over `rows` by class, node and length."""
        names: dict[str, list[bool]] = {}
        for kind, of in (("class", _target), ("node", _node), ("length", _length)):
            values = [of(row) for row in self.rows]
            for value in sorted(set(values) - {""}):
                names[f"{kind}:{value}"] = [v == value for v in values]
        return {name: np.array(mask) for name, mask in names.items()}


def sit(candidate: Candidate, student: Student, exam: Exam, contract: Contract) -> Sheet:
    """Everything the gate wants to know of one student."""
    judged = answer(student, exam.rows)
    scores = scores_of(candidate, judged.output)
    return Sheet(
        right=judged.agree == 1.0,
        confidence=scores.effective,
        certificate=_certificate(candidate, student, exam, contract),
        encoder_bytes=len(candidate.encoder) + sum(map(len, (candidate.extra or {}).values())),
        finite=bool(np.isfinite(judged.output.logits).all()),
        foreign=_foreign(candidate, student, exam),
        pinned_broken=_broken(answer(student, exam.pinned), exam.pinned),
        gold_right=_gold(student, exam.gold),
    )


def compare_latency(
    old: Student, new: Student, texts: Sequence[str], most: int = 50
) -> tuple[Numbers, Numbers]:
    """Times of one row by each student, milliseconds, (L,); empty without rows.

    The two take turns, text by text, so that whatever else the machine does slows both alike.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for text in [*texts[:WARM_UP], *texts[:most]]:
        for student, kept in zip((old, new), times, strict=True):
            start = time.perf_counter()
            student.run([text])
            kept.append((time.perf_counter() - start) * 1e3)
    before, after = (np.array(kept[WARM_UP:], np.float64) for kept in times)
    return before, after


def pictures(new: Sheet, old: Sheet | None, exam: Exam) -> dict[str, Any]:
    """What the report draws: accuracies, confidences and slices of the rows that judged."""
    sheets = {"new": new} if old is None else {"old": old, "new": new}
    judged: dict[str, Any] = {}
    for who, sheet in sheets.items():
        judged[f"{who}_right"] = sheet.right[:MAX_DRAWN].astype(int).tolist()
        judged[f"{who}_confidence"] = np.round(sheet.confidence[:MAX_DRAWN], 4).tolist()
    if old is not None:
        judged["slices"] = {
            name: (float(old.right[rows].mean()), float(new.right[rows].mean()), int(rows.sum()))
            for name, rows in exam.slices.items()
        }
    accuracy = {who: float(sheet.right.mean()) for who, sheet in sheets.items() if len(sheet.right)}
    return {"judged": judged, "accuracy": accuracy}


def changed_answers(
    old: Student, new: Student, rows: Sequence[Example], most: int = 24
) -> list[dict[str, str]]:
    """Redacted samples of rows on which the two students differ; broken ones first."""
    before, after = answer(old, rows).labels, answer(new, rows).labels
    changed = [
        {"text": redact(row.text), "teacher": row.target, "champion": a, "challenger": b}
        for row, a, b in zip(rows, before, after, strict=True)
        if a != b
    ]
    return sorted(changed, key=lambda row: row["champion"] != row["teacher"])[:most]


def learned_answers(
    old: Student, new: Student, rows: Sequence[Example], most: int = 12
) -> list[dict[str, str]]:
    """Redacted samples of rows that only the new student answers as the teacher does."""
    changed = changed_answers(old, new, rows, most=len(rows))
    return [row for row in changed if row["challenger"] == row["teacher"]][:most]


def _certificate(
    candidate: Candidate, student: Student, exam: Exam, contract: Contract
) -> Certificate:
    """Proved tonight, on tonight's rows, for either student alike."""
    answers = answer(student, exam.certificate)
    return certificate_of(candidate, answers, exam.certificate, contract)


def _foreign(candidate: Candidate, student: Student, exam: Exam) -> Numbers:
    """Confidence on the foreign rows."""
    if not exam.foreign:
        return np.zeros(0)
    return scores_of(candidate, student.run(list(exam.foreign))).effective


def _broken(answers: Answers, rows: Sequence[Example]) -> tuple[str, ...]:
    return tuple(
        row.text
        for row, said in zip(rows, answers.labels, strict=True)
        if said != (row.label or row.target)
    )


def _gold(student: Student, rows: Sequence[Example]) -> NDArray[np.bool_]:
    said = answer(student, rows).labels
    return np.array([a == row.label for a, row in zip(said, rows, strict=True)], np.bool_)


def _target(row: Example) -> str:
    return row.target


def _node(row: Example) -> str:
    return row.node


def _length(row: Example) -> str:
    words = len(row.text.split())
    return "short" if words <= 6 else "long" if words > 20 else ""
