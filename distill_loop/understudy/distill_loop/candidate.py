"""A student on its way to a bundle: head, calibration and certificate on the graph that ships.

Every number here comes out of the edge's own runner, on the compressed graph. Order matters: the
head is fitted on that graph's vectors, the calibration on that head's logits, and the certificate
on rows that neither of them saw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.head import fit_head, head_bytes
from understudy.distill_loop.recipe import HeadRecipe
from understudy.distill_loop.rows import Example
from understudy.edge.bundle import (
    Bundle,
    GoldenVector,
    Head,
    decode_head,
    encode_calibration,
    encode_certificate,
    encode_golden,
    read_bundle,
    write_bundle,
)
from understudy.edge.student import Student, StudentOutput
from understudy.router.certificate import certify, digest_rows
from understudy.router.fit import fit_calibration
from understudy.router.score import Scores, score_many
from understudy.types.bundle import (
    CALIBRATION,
    CERTIFICATE,
    ENCODER,
    GOLDEN,
    HEAD,
    TOKENIZER,
    Lineage,
)
from understudy.types.contract import Calibration, Certificate, Contract
from understudy.types.decision import NEVER_KEEP

Floats = NDArray[np.float32]
MIN_CALIBRATION = 60
"""With fewer rows the out-of-fold answers on training rows join in; the certificate still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The parts of a bundle, before or after fitting.

    Attributes:
        task: Name of the task.
        labels: Class names.
        encoder: The graph that ships.
        tokenizer: Its `tokenizer.json`.
        max_tokens: Longest input.
        head: The head; zeros before it is fitted.
        calibration: The calibration.
        certificate: What was proved.
        runtime: `onnx` or `static`.
        extra: Further files by name.
    """

    task: str
    labels: tuple[str, ...]
    encoder: bytes
    tokenizer: bytes
    max_tokens: int
    head: Head
    calibration: Calibration
    certificate: Certificate
    runtime: str = "onnx"
    extra: Mapping[str, bytes] | None = None


def blank(
    task: str,
    labels: tuple[str, ...],
    encoder: bytes,
    tokenizer: bytes,
    *,
    max_tokens: int,
    vector: int,
    contract: Contract,
) -> Candidate:
    """A candidate with a head of zeros and nothing proved."""
    head = Head(
        np.zeros((len(labels), vector), np.float32),
        np.zeros(len(labels), np.float32),
        np.zeros((0, vector), np.float32),
        np.zeros(0, np.int64),
    )
    return Candidate(
        task=task,
        labels=labels,
        encoder=encoder,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        head=head,
        calibration=Calibration(),
        certificate=nothing_proved(contract),
    )


def nothing_proved(contract: Contract) -> Certificate:
    """The certificate of a student that nobody has audited yet."""
    return certify(np.zeros(0), np.zeros(0), contract)


def load(candidate: Candidate) -> Student:
    """The edge's own runner for a candidate."""
    with tempfile.TemporaryDirectory(prefix="understudy-candidate-") as folder:
        write(candidate, Path(folder), golden=())
        return Student.load(read_bundle(folder))


def with_head(
    candidate: Candidate,
    vectors: Floats,
    labels: NDArray[np.int64],
    *,
    soft: Floats | None = None,
    weights: NDArray[np.float64] | None = None,
    start: Head | None = None,
    recipe: HeadRecipe,
) -> Candidate:
    """The candidate with a head fitted on its own vectors, as rounded in the file."""
    head = fit_head(
        vectors,
        labels,
        len(candidate.labels),
        soft=soft,
        sample_weight=weights,
        start=start,
        recipe=recipe,
    )
    return replace(candidate, head=decode_head(head_bytes(head)))


@dataclass(frozen=True, slots=True)
class Answers:
    """What a student says of N rows.

    Attributes:
        output: Logits, vectors, similarities.
        labels: Its answer by name.
        target: What it should say, empty where nobody knows.
    """

    output: StudentOutput
    labels: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def agree(self) -> NDArray[np.float64]:
        """1 where it says what it should, 0 where not, NaN where nobody knows."""
        pairs = zip(self.labels, self.target, strict=True)
        return np.array([float(a == b) if b else np.nan for a, b in pairs])


def answer(student: Student, rows: Sequence[Example]) -> Answers:
    """Runs a student on rows."""
    output = student.run([row.text for row in rows])
    best = output.logits.argmax(1) if len(rows) else []
    return Answers(
        output, tuple(student.labels[i] for i in best), tuple(row.target for row in rows)
    )


def calibrate(
    candidate: Candidate,
    held_out: Answers,
    spare: tuple[StudentOutput, NDArray[np.float64]] | None,
    score: str,
) -> Candidate:
    """Fits the calibration on held-out answers, and on spare ones while those are few.

    Args:
        candidate: Whose calibration is wanted.
        held_out: Its answers on rows it did not learn from.
        spare: Out-of-fold numbers on training rows with their agreement.
        score: Name of the score.
    """
    known = ~np.isnan(held_out.agree)
    logits, near = held_out.output.logits[known], held_out.output.similarity[known]
    agree = held_out.agree[known]
    if spare is not None and len(agree) < MIN_CALIBRATION:
        output, right = spare
        logits = np.concatenate([logits, output.logits])
        near = np.concatenate([near, output.similarity])
        agree = np.concatenate([agree, right])
    if not len(agree):
        return candidate
    return replace(candidate, calibration=fit_calibration(logits, near, agree, score=score))


def prove(
    candidate: Candidate,
    answers: Answers,
    rows: Sequence[Example],
    contract: Contract,
    now_unix_s: float,
) -> Candidate:
    """Certifies the candidate on unbiased rows that nothing of it was fitted on."""
    proved = certificate_of(candidate, answers, rows, contract)
    digest = digest_rows(row.id for row in rows)
    return replace(
        candidate, certificate=replace(proved, rows_digest=digest, issued_unix_s=now_unix_s)
    )


def certificate_of(
    candidate: Candidate, answers: Answers, rows: Sequence[Example], contract: Contract
) -> Certificate:
    """What the rows prove about the candidate, slice by slice.

    Rows on which the teacher could not be trusted are set aside, and counted.
    """
    said = set(candidate.labels)
    return certify(
        scores_of(candidate, answers.output).effective,
        answers.agree,
        contract,
        slices=[row.slice_name for row in rows],
        reliable=[row.reliable for row in rows],
        new_label=[bool(target) and target not in said for target in answers.target],
    )


def scores_of(candidate: Candidate, output: StudentOutput) -> Scores:
    """Calibrated confidences of a student's numbers."""
    return score_many(output.logits, output.similarity, candidate.calibration)


def golden_vectors(student: Student, texts: Sequence[str]) -> tuple[GoldenVector, ...]:
    """Texts with the logits this student must give for them on every machine."""
    logits = student.run(list(texts)).logits
    return tuple(
        GoldenVector(text, tuple(round(float(v), 5) for v in row))
        for text, row in zip(texts, logits, strict=True)
    )


def write(
    candidate: Candidate,
    folder: Path,
    *,
    golden: Sequence[GoldenVector],
    parent: str = "",
    created_unix_s: float = 0.0,
    lineage: Lineage | None = None,
) -> str:
    """Writes the bundle and returns its id."""
    graph = {ENCODER: candidate.encoder} if candidate.encoder else {}
    files = {
        **graph,
        HEAD: head_bytes(candidate.head),
        TOKENIZER: candidate.tokenizer,
        CALIBRATION: encode_calibration(candidate.calibration),
        CERTIFICATE: encode_certificate(candidate.certificate),
        GOLDEN: encode_golden(golden),
        **(candidate.extra or {}),
    }
    return write_bundle(
        folder,
        task=candidate.task,
        labels=candidate.labels,
        max_tokens=candidate.max_tokens,
        vector_size=candidate.head.weight.shape[1],
        files=files,
        runtime=candidate.runtime,
        parent=parent,
        created_unix_s=created_unix_s,
        lineage=lineage,
    )


def from_bundle(bundle: Bundle) -> Candidate:
    """A shipped student as a candidate: the start of a head-only refresh."""
    standard = {ENCODER, HEAD, TOKENIZER, CALIBRATION, CERTIFICATE, GOLDEN}
    return Candidate(
        task=bundle.manifest.task,
        labels=bundle.manifest.labels,
        encoder=bundle.files.get(ENCODER, b""),
        tokenizer=bundle.files[TOKENIZER],
        max_tokens=bundle.manifest.max_tokens,
        head=bundle.head,
        calibration=bundle.calibration,
        certificate=bundle.certificate,
        runtime=bundle.manifest.runtime,
        extra={name: data for name, data in bundle.files.items() if name not in standard},
    )


def keeps_anything(certificate: Certificate) -> bool:
    """True if some answer of the student may be kept under its certificate."""
    return certificate.threshold < NEVER_KEEP
