"""Signs that a night's data was tampered with, or that the teacher is not itself.

Three attacks are looked for: a teacher that answers wrongly, a class flooded with requests, and a
phrase sent by a few nodes that drags whatever contains it to one class.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from understudy.distill_loop.rows import Example
from understudy.edge.student import Student

SURE = 0.9
"""Confidence from which the champion's word counts against the teacher's."""
MIN_SURE = 30
UNMEASURED = 0.2
"""Contradiction beyond its own claim forgiven to a champion that was never seen on held-out rows.

A first student knows a few rows an intent, and what it claims of itself comes from those.
"""
MIN_FLOOD = 30
MIN_PHRASE = 5
MAX_PHRASES = 30
PROBES = 40


def data_alarms(
    *,
    new: Sequence[str],
    old: Sequence[str],
    confidence: NDArray[np.float64],
    agree: NDArray[np.float64],
    known: NDArray[np.bool_],
    growth: float,
    usual: float | None = None,
) -> tuple[str, ...]:
    """One sentence for each thing that looks wrong with the rows that came since the last night.

    Args:
        new: Labels of the new rows.
        old: Labels of the rows before them.
        confidence: The champion's confidence on the new rows, (N,).
        agree: 1 where champion and teacher agree, (N,).
        known: True where the teacher's label is a class of the champion, (N,).
        growth: How many times its usual share a class may take.
        usual: `contradicted` on earlier rows that the champion did not learn from.
    """
    found = [*_flood(new, old, growth)]
    if (sure := _sure(confidence, known)) is not None:
        found += _quarrel(confidence[sure], agree[sure], usual)
    return tuple(found)


def contradicted(
    confidence: NDArray[np.float64], agree: NDArray[np.float64], known: NDArray[np.bool_]
) -> float | None:
    """Share of what a student is sure of that the teacher contradicts; None of too few rows."""
    sure = _sure(confidence, known)
    return None if sure is None else float(1.0 - agree[sure].mean())


def _sure(confidence: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Rows on which the champion's word counts; None of too few."""
    sure: NDArray[np.bool_] = (confidence >= SURE) & known
    return sure if int(sure.sum()) >= MIN_SURE else None


def _flood(new: Sequence[str], old: Sequence[str], growth: float) -> Iterator[str]:
    """Classes whose share grew beyond what their earlier share allows."""
    before, after = Counter(old), Counter(new)
    classes = len(set(before) | set(after))
    if len(old) < MIN_FLOOD:
        return
    for name, count in sorted(after.items()):
        usual = (before[name] + 1) / (len(old) + classes)
        share = count / len(new)
        # With few classes no share is five times another: half of what is left is a flood too.
        allowed = min(max(growth * usual, 3.0 / classes), 0.5 + usual / 2)
        if count >= MIN_FLOOD and share > allowed:
            yield f"'{name}' floods the new rows: {share:.0%}, usually {usual:.1%}"


def _quarrel(
    confidence: NDArray[np.float64], agree: NDArray[np.float64], usual: float | None
) -> Iterator[str]:
    """Far more disagreement than was seen before, or than the champion's claim leaves room for."""
    claimed = float((1.0 - confidence).mean())
    expected = max(claimed, usual or 0.0)
    spread = float(np.sqrt(expected * (1.0 - expected) / len(confidence)))
    share = float(1.0 - agree.mean())
    slack = 0.05 if usual is not None else UNMEASURED
    limit = 2.0 * expected + slack + float(norm.ppf(0.9999)) * spread
    if share > limit:
        yield (
            f"the teacher contradicts {share:.0%} of what the champion is sure of, "
            f"{expected:.0%} were expected: teacher or traffic changed"
        )


def suspicious_phrases(rows: Sequence[Example]) -> tuple[tuple[str, str], ...]:
    """Phrases of up to three words that few nodes send, and that always come with one label.

    Nothing is found where fewer than ten nodes are told apart: then one node is the traffic. Rows
    that no node sent, but a person gave, are nobody's attack.
    """
    sent = [row for row in rows if row.node]
    nodes = {row.node for row in sent}
    if len(nodes) < 10:
        return ()
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    senders: dict[str, set[str]] = defaultdict(set)
    for row in sent:
        for phrase in _phrases(row.text):
            labels[phrase][row.target] += 1
            senders[phrase].add(row.node)
    found = [
        (phrase, label)
        for phrase, counts in labels.items()
        for label, count in counts.most_common(1)
        if count >= MIN_PHRASE
        and count >= 0.9 * counts.total()
        and len(senders[phrase]) <= _few(count, len(nodes))
    ]
    found.sort(key=lambda item: (-labels[item[0]].total(), -len(item[0]), item[0]))
    return tuple(found[:MAX_PHRASES])


def _few(rows: int, nodes: int) -> float:
    """Senders so few that chance does not explain it: half of what random senders would be."""
    expected = nodes * (1.0 - (1.0 - 1.0 / nodes) ** rows)
    return min(max(1.0, 0.1 * nodes), 0.5 * expected)


def trigger_pull(
    phrase: str, label: str, texts: Sequence[str], before: Student | None, after: Student
) -> float:
    """Share of ordinary texts that the phrase drags to the label, beyond what it did before."""
    probes = [text for text in texts if phrase not in text.casefold()][:PROBES]
    if not probes:
        return 0.0
    poisoned = [f"{phrase} {text}" for text in probes]
    dragged = _named(after, poisoned, label) & ~_named(after, probes, label)
    if before is None:
        return float(dragged.mean())
    usual = _named(before, poisoned, label) & ~_named(before, probes, label)
    return max(0.0, float(dragged.mean()) - float(usual.mean()))


def _named(student: Student, texts: Sequence[str], label: str) -> NDArray[np.bool_]:
    if label not in student.labels:
        return np.zeros(len(texts), np.bool_)
    named: NDArray[np.bool_] = student.run(texts).logits.argmax(1) == student.labels.index(label)
    return named


def _phrases(text: str) -> set[str]:
    words = text.casefold().split()
    return {
        " ".join(words[i : i + size]) for size in (1, 2, 3) for i in range(len(words) - size + 1)
    }
