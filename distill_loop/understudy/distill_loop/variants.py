"""A second graph for CPUs that can do more: all 8 bits of a weight where sums do not saturate.

The portable graph keeps 7 bits, so that it answers alike everywhere. On a CPU with VNNI the eighth
bit is free, and a graph that uses it is nearer to the one before compression. That is another
student: it gets golden vectors, calibration and certificate of its own, on a machine that has such
a CPU, and ships only if it measures truer there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from understudy.distill_loop import candidate as parts
from understudy.distill_loop.candidate import Candidate
from understudy.distill_loop.compress import compress, parity
from understudy.distill_loop.night import Night
from understudy.distill_loop.split import Folds
from understudy.edge.bundle import (
    cpu_flags,
    encode_calibration,
    encode_certificate,
    encode_golden,
    read_bundle,
    runs_on,
    variant_name,
)
from understudy.edge.student import Student
from understudy.types.bundle import CALIBRATION, CERTIFICATE, ENCODER, GOLDEN

Certify = Callable[[Night, Candidate, Student, Folds], Candidate]
TRUER = 0.9
"""What must at most be left of the distance to the graph before compression."""
COMPARED_TEXTS = 100
GOLDEN_ROWS = 16


def variant_files(
    night: Night, candidate: Candidate, folds: Folds, graph: bytes, certify: Certify
) -> dict[str, bytes]:
    """Files of every variant that the recipe asks for and that is worth its bytes.

    Args:
        night: Whose recipe names the CPU classes.
        candidate: The portable student, calibrated and certified.
        folds: Tonight's rows; the variant is calibrated and certified on those of its sibling.
        graph: The encoder before compression; empty for a refresh, which keeps the champion's.
        certify: Certifies a candidate by its runner.
    """
    files: dict[str, bytes] = {}
    said: dict[str, str] = {}
    for cpu in night.recipe.compress.variants if candidate.runtime == "onnx" else ():
        if not runs_on(cpu, cpu_flags()):
            said[cpu] = "not made: this machine has no such CPU to prove it on"
            continue
        encoder, said[cpu] = _encoder(night, candidate, folds, graph, cpu)
        if encoder:
            files |= _proved(night, replace(candidate, encoder=encoder), folds, certify, cpu)
    if said:
        night.figures["variants"] = said
    return files


def _encoder(
    night: Night, candidate: Candidate, folds: Folds, graph: bytes, cpu: str
) -> tuple[bytes, str]:
    """The variant's graph and what was measured; no graph if it is not worth it."""
    if not graph:
        champion = night.sources.champion
        name = variant_name(ENCODER, cpu)
        files = read_bundle(champion).files if champion is not None else {}
        return files.get(name, b""), "the champion's" if name in files else "the champion has none"
    tokenizer = candidate.tokenizer.decode()
    texts = [row.text for row in folds.train][:COMPARED_TEXTS]
    # `auto` has chosen by now; what it chose stands first.
    use = night.figures["compression"][0]["use"]
    recipe = replace(night.recipe.compress, use=use, cpu=cpu)
    small, full = compress(graph, recipe, tokenizer, texts)
    portable = parity(graph, candidate.encoder, tokenizer, texts)
    measured = f"cosine {full.cosine:.5f}, portable {portable.cosine:.5f}"
    truer = 1.0 - full.cosine <= TRUER * (1.0 - portable.cosine)
    return (small, measured) if truer else (b"", f"not truer: {measured}")


def _proved(
    night: Night, candidate: Candidate, folds: Folds, certify: Certify, cpu: str
) -> dict[str, bytes]:
    student = parts.load(candidate)
    if len(folds.calibration) >= parts.MIN_CALIBRATION:
        held_out = parts.answer(student, folds.calibration)
        candidate = parts.calibrate(candidate, held_out, None, night.recipe.score)
    candidate = certify(night, candidate, student, folds)
    texts = list(dict.fromkeys(row.text for row in folds.train))[:GOLDEN_ROWS]
    return {
        variant_name(ENCODER, cpu): candidate.encoder,
        variant_name(GOLDEN, cpu): encode_golden(parts.golden_vectors(student, texts)),
        variant_name(CALIBRATION, cpu): encode_calibration(candidate.calibration),
        variant_name(CERTIFICATE, cpu): encode_certificate(candidate.certificate),
    }
