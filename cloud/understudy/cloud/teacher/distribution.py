"""From numbers to a `TeacherLabel`: what every engine does the same way. numpy only."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.cloud.teacher import GenerateRequest, ScoreRequest
from understudy.types.config import nearest_key
from understudy.types.errors import DeadlineError, InvalidValueError, TeacherError
from understudy.types.records import TeacherLabel

Floats = NDArray[np.floating]


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Natural log-probabilities over the last axis, float64."""
    wide = np.asarray(logits, dtype=np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return total


def ranked_label(
    labels: Sequence[str],
    log_probs: Floats,
    *,
    teacher: str,
    prompt_hash: str,
    label_mass: float = 1.0,
    rationale: str = "",
) -> TeacherLabel:
    """Normalises over `labels` and puts the most probable first.

    Args:
        labels: Class names.
        log_probs: Unnormalised log-probabilities, shape (len(labels),).
        teacher: Id of the teacher.
        prompt_hash: From `prompt_hash`.
        label_mass: As in `TeacherLabel`.
        rationale: As in `TeacherLabel`.

    Raises:
        TeacherError: If a number is NaN, or none is finite.
    """
    scores = np.asarray(log_probs, dtype=np.float64)
    if np.isnan(scores).any() or not np.isfinite(scores.max()):
        raise TeacherError("the teacher's scores are not numbers")
    normal = np.minimum(log_softmax(scores), 0.0)
    order = np.argsort(-normal, kind="stable")
    return TeacherLabel(
        teacher=teacher,
        prompt_hash=prompt_hash,
        labels=tuple(labels[int(i)] for i in order),
        log_probs=tuple(normal[order].tolist()),
        label_mass=min(max(label_mass, 0.0), 1.0),
        rationale=rationale,
    )


def restricted_label(
    known: Sequence[str],
    log_probs: Floats,
    wanted: Sequence[str],
    *,
    teacher: str,
    prompt_hash: str,
) -> TeacherLabel:
    """A classifier's distribution over `wanted`, all of `known` if empty.

    What the classifier put on the other classes is missing from `label_mass`.

    Raises:
        InvalidValueError: If a wanted label is unknown to the classifier.
        TeacherError: If a number is NaN.
    """
    normal = log_softmax(log_probs)
    if not wanted:
        return ranked_label(known, normal, teacher=teacher, prompt_hash=prompt_hash)
    place = {label: index for index, label in enumerate(known)}
    missing = next((label for label in wanted if label not in place), None)
    if missing is not None:
        raise InvalidValueError(
            f"the teacher does not know the label '{missing}'.{_nearest(missing, known)}"
        )
    chosen = normal[[place[label] for label in wanted]]
    mass = float(np.exp(chosen).sum())
    return ranked_label(wanted, chosen, teacher=teacher, prompt_hash=prompt_hash, label_mass=mass)


def prompt_hash(*parts: object) -> str:
    """16 hex digits over prompt, template and label set; equal parts give equal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def expired(request: ScoreRequest | GenerateRequest) -> DeadlineError | None:
    """The error of a request whose deadline has passed: nobody waits for its answer any more."""
    late = time.time() - request.deadline_unix_s
    if late < 0.0:
        return None
    return DeadlineError(f"dropped: the deadline passed {late:.3f} s before the teacher's turn")


def _nearest(label: str, known: Sequence[str]) -> str:
    close = nearest_key(label, known)
    return close if close.startswith(" Did") else f" It knows {len(known)} labels."
