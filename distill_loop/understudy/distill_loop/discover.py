"""New classes: clusters of requests that no class fits become proposals, and a person decides.

A proposal is kept in the workspace with its examples. Approving it, one call, turns the examples
into rows labelled by a person; the next night or refresh grows the head by a row.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from understudy.distill_loop.rows import NONE_LABEL, Example, Origin
from understudy.distill_loop.workspace import Workspace
from understudy.files import write_atomic
from understudy.types.errors import ConfigError

Floats = NDArray[np.float32]
MAX_CLUSTERED = 3000
APPROVED = "approved-"
"""Begins the id of a row that a person made an example of a class."""
UNKNOWN_MASS = 0.5
"""A teacher whose labels carry less of its probability than this did not find a fitting one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A class that the traffic seems to want.

    Attributes:
        id: Short name by content; the same cluster proposed again has the same id.
        words: Words that set it apart, most telling first.
        examples: Texts, most typical first.
        row_ids: Rows they came from.
        cohesion: Mean cosine to its own centre.
        nearest: Known class that is nearest, and
        nearest_cosine: how near its centre is.
    """

    id: str
    words: tuple[str, ...]
    examples: tuple[str, ...]
    row_ids: tuple[str, ...]
    cohesion: float
    nearest: str
    nearest_cosine: float


def unknown_rows(
    rows: Iterable[Example], labels: Sequence[str], none_label: str = NONE_LABEL
) -> tuple[Example, ...]:
    """Rows that no class fits: named so, named otherwise, or named with little conviction."""
    known = set(labels)
    return tuple(
        row
        for row in rows
        if not row.label
        and row.teacher is not None
        and (
            row.teacher.label == none_label
            or row.teacher.label not in known
            or row.teacher.label_mass < UNKNOWN_MASS
        )
    )


def propose(
    rows: Sequence[Example],
    vectors: Floats,
    centres: Floats,
    labels: Sequence[str],
    *,
    min_rows: int = 15,
    apart: float = 0.5,
) -> tuple[Proposal, ...]:
    """Clusters unknown rows; the largest first.

    Args:
        rows: Rows that no class fits.
        vectors: Their sentence vectors, unit rows, (N, D).
        centres: Centre of each known class, unit rows, (C, D); may be empty.
        labels: Names of these classes.
        min_rows: Smallest cluster worth a person's time.
        apart: Mean cosine distance from which two groups are two things.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(rows) < max(min_rows, 2):
        return ()
    # Pairs of rows are compared: the newest few thousand are enough to see what is missing.
    rows, vectors = rows[-MAX_CLUSTERED:], vectors[-MAX_CLUSTERED:]
    clusters = AgglomerativeClustering(
        n_clusters=None, distance_threshold=apart, metric="cosine", linkage="average"
    ).fit_predict(vectors)
    everything = Counter(word for row in rows for word in set(row.text.casefold().split()))
    found = [
        _proposal([rows[i] for i in members], vectors[members], centres, labels, everything)
        for members in (np.flatnonzero(clusters == c) for c in range(int(clusters.max()) + 1))
        if len(members) >= min_rows
    ]
    return tuple(sorted(found, key=lambda p: (-len(p.row_ids), p.id)))


def keep_proposals(workspace: Workspace, proposals: Sequence[Proposal]) -> None:
    """Writes them down for a person to look at."""
    data = json.dumps([asdict(p) for p in proposals], indent=1, ensure_ascii=False).encode()
    write_atomic(workspace.path("proposals.json"), data)


def kept_proposals(workspace: Workspace) -> tuple[Proposal, ...]:
    """The proposals that wait for a person."""
    path = workspace.path("proposals.json")
    if not path.exists():
        return ()
    return msgspec.json.decode(path.read_bytes(), type=tuple[Proposal, ...])


def approve(workspace: Workspace, proposal_id: str, label: str) -> int:
    """Makes a proposal a class; returns how many rows it starts with.

    Raises:
        ConfigError: If there is no such proposal, or the label is empty.
    """
    waiting = {p.id: p for p in kept_proposals(workspace)}
    if proposal_id not in waiting:
        known = ", ".join(sorted(waiting)) or "none"
        raise ConfigError(f"there is no proposal '{proposal_id}'; waiting are: {known}")
    if not label.strip():
        raise ConfigError("an approved class needs a name")
    chosen = waiting.pop(proposal_id)
    fresh = tuple(
        Example(id=f"{APPROVED}{i}", text=text, label=label, origin=Origin.FILE)
        for i, text in zip(chosen.row_ids, chosen.examples, strict=True)
    )
    rows = (*approved_rows(workspace), *fresh)
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    write_atomic(_approved(workspace), lines)
    keep_proposals(workspace, tuple(waiting.values()))
    return len(fresh)


def approved_rows(workspace: Workspace) -> tuple[Example, ...]:
    """Rows of every class approved so far."""
    path = _approved(workspace)
    if not path.exists():
        return ()
    return tuple(msgspec.json.decode(line, type=Example) for line in path.read_bytes().splitlines())


def _approved(workspace: Workspace) -> Path:
    return workspace.path("approved.jsonl")


def _proposal(
    rows: Sequence[Example],
    vectors: Floats,
    centres: Floats,
    labels: Sequence[str],
    everything: Counter[str],
) -> Proposal:
    centre = vectors.mean(0) / max(float(np.linalg.norm(vectors.mean(0))), 1e-9)
    typical = np.argsort(-(vectors @ centre), kind="stable")
    near = centres @ centre if len(centres) else np.array([-1.0])
    ids = tuple(rows[i].id for i in typical)
    return Proposal(
        id=hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12],
        words=_telling_words(rows, everything),
        examples=tuple(rows[i].text for i in typical),
        row_ids=ids,
        cohesion=float((vectors @ centre).mean()),
        nearest=labels[int(near.argmax())] if len(centres) else "",
        nearest_cosine=float(near.max()),
    )


def _telling_words(
    rows: Sequence[Example], everything: Counter[str], most: int = 5
) -> tuple[str, ...]:
    """Words in many of these rows and in few of the others."""
    inside = Counter(word for row in rows for word in set(row.text.casefold().split()))
    score = {w: c / len(rows) * c / everything[w] for w, c in inside.items() if len(w) > 2}
    return tuple(sorted(score, key=lambda w: (-score[w], w))[:most])
