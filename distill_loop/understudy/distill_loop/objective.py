"""What a student learns by: named terms of one batch, each a number that is zero at perfection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.distill_loop.encoder import Trace
from understudy.distill_loop.recipe import ObjectiveRecipe


@dataclass(frozen=True, slots=True)
class Batch:
    """Targets of one batch; weights have mean about 1.

    Attributes:
        vectors: Sentence vectors of the base, (B, D).
        soft: Distributions of the teacher, (B, C); rows of zeros where there is none.
        labels: Class index, (B,); -1 where there is none.
        weights: Row weights, (B,).
        champion: Logits of the champion, (B, C); None without champion.
        hidden: Pooled hidden states of the base at the mapped layers, each (B, H); None unless
            wanted.
        relations: Queries and values of the base's last layer, each (B, heads, S, d); None unless
            wanted.
        rationales: Sentence vectors of the teacher's rationales, (B, D), zero where none; None
            unless wanted.
        partner: Row that each row is mixed with, (B,); None unless wanted.
        share: What a row keeps of itself in its mix, in [0, 1].
    """

    vectors: Tensor
    soft: Tensor
    labels: Tensor
    weights: Tensor
    champion: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None
    relations: tuple[Tensor, Tensor] | None = None
    rationales: Tensor | None = None
    partner: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Early:
    """What an early exit says.

    Attributes:
        vectors: Unit sentence vectors there, (B, D).
        logits: Of the head on them, (B, C).
        gate: Above zero where the row may stop there, (B,).
    """

    vectors: Tensor
    logits: Tensor
    gate: Tensor


@dataclass(frozen=True, slots=True)
class Output:
    """What the student says of one batch.

    Attributes:
        vectors: Unit sentence vectors, (B, D).
        logits: Of the head, (B, C).
        mask: 1 for a real token, (B, S).
        trace: The encoder's inner states; None unless wanted.
        rationale: Projection of the vectors meant to meet the rationale; None unless wanted.
        early: What the early exit says; None where there is none.
    """

    vectors: Tensor
    logits: Tensor
    mask: Tensor
    trace: Trace | None = None
    rationale: Tensor | None = None
    early: Early | None = None


Term = Callable[[Output, Batch, ObjectiveRecipe], Tensor]


def embedding_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """1 minus the cosine to the base's sentence vector, weighted mean."""
    return _mean(1.0 - (out.vectors * batch.vectors).sum(-1), batch.weights)


def soft_label_loss(out: Output, batch: Batch, recipe: ObjectiveRecipe) -> Tensor:
    """T^2 KL(teacher || student) over rows that have a distribution."""
    soft = capped(batch.soft, recipe.cap)
    known = (soft.sum(-1) > 0).float()
    rows = _softened(soft, out.logits, recipe.temperature)
    return _mean(rows, batch.weights * known)


def mixup_loss(out: Output, batch: Batch, recipe: ObjectiveRecipe) -> Tensor:
    """As the soft labels, for mixes of two rows' sentence vectors and of their distributions.

    The head is linear: its numbers for a mix of vectors are the mix of its numbers.
    """
    if batch.partner is None:
        raise ValueError("the mixup term needs a partner for every row")
    soft = capped(batch.soft, recipe.cap)
    known = (soft.sum(-1) > 0).float()
    both = known * known[batch.partner]
    mixed = batch.share * soft + (1.0 - batch.share) * soft[batch.partner]
    logits = batch.share * out.logits + (1.0 - batch.share) * out.logits[batch.partner]
    return _mean(_softened(mixed, logits, recipe.temperature), batch.weights * both)


def exit_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """1 minus the cosine of the early vector to the base's, and the gate's doubt.

    The gate learns where the head says the same of the early vector as of the last one.
    """
    if out.early is None:
        raise ValueError("the exit term needs a student with an early exit")
    same = (out.early.logits.argmax(-1) == out.logits.argmax(-1)).float()
    gate = F.binary_cross_entropy_with_logits(out.early.gate, same, reduction="none")
    near = 1.0 - (out.early.vectors * batch.vectors).sum(-1)
    return _mean(near + gate, batch.weights)


def label_loss(out: Output, batch: Batch, recipe: ObjectiveRecipe) -> Tensor:
    """Cross-entropy with the hard label, over rows that have one."""
    known = (batch.labels >= 0).float()
    rows = F.cross_entropy(
        out.logits,
        batch.labels.clamp(min=0),
        reduction="none",
        label_smoothing=recipe.smoothing,
    )
    return _mean(rows, batch.weights * known)


def relational_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """Mean squared difference of the batch's pairwise cosines; times the batch, as in the paper."""
    difference = out.vectors @ out.vectors.T - batch.vectors @ batch.vectors.T
    return difference.square().mean() * len(difference)


def hidden_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """Mean squared difference of layer-normed, pooled hidden states of mapped layers."""
    if out.trace is None or batch.hidden is None:
        raise ValueError("the hidden term needs the trace and the base's hidden states")
    mask = out.mask.unsqueeze(-1).float()
    terms = [
        F.mse_loss(_norm((state * mask).sum(1) / mask.sum(1)), _norm(target))
        for state, target in zip(out.trace.hidden[1:], batch.hidden, strict=True)
    ]
    return torch.stack(terms).mean()


def relation_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """KL between query-query and value-value relations of the last layers, as in MiniLM v2."""
    if out.trace is None or batch.relations is None:
        raise ValueError("the relation term needs the trace and the base's relations")
    if out.trace.queries is None or out.trace.values is None:
        raise ValueError("the encoder left no queries in its trace")
    pairs = ((batch.relations[0], out.trace.queries), (batch.relations[1], out.trace.values))
    return torch.stack([_relation(t, s, out.mask) for t, s in pairs]).mean()


def anchor_loss(out: Output, batch: Batch, recipe: ObjectiveRecipe) -> Tensor:
    """(alpha + beta [champion right]) KL(champion || student): what worked stays."""
    if batch.champion is None:
        return out.logits.sum() * 0.0
    right = (batch.champion.argmax(-1) == batch.labels).float()
    old = torch.softmax(batch.champion, -1)
    new = torch.log_softmax(out.logits, -1)
    rows = (old * (old.clamp(min=1e-12).log() - new)).sum(-1)
    return _mean(rows * (recipe.anchor_alpha + recipe.anchor_beta * right), batch.weights)


def unsure_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """KL(uniform || student) on the rows it has wrong: a wrong answer should at least be unsure."""
    wrong = ((out.logits.argmax(-1) != batch.labels) & (batch.labels >= 0)).float()
    log_p = torch.log_softmax(out.logits, -1)
    classes = out.logits.shape[-1]
    rows = -log_p.mean(-1) - torch.log(torch.tensor(float(classes)))
    return (rows * wrong * batch.weights).sum() / batch.weights.sum().clamp(min=1e-9)


def rationale_loss(out: Output, batch: Batch, _: ObjectiveRecipe) -> Tensor:
    """1 minus the cosine between a projection of the vector and the rationale's vector."""
    if out.rationale is None or batch.rationales is None:
        raise ValueError("the rationale term needs rationales and their projection")
    known = (batch.rationales.abs().sum(-1) > 0).float()
    cosine = F.cosine_similarity(out.rationale, batch.rationales, dim=-1)
    return _mean(1.0 - cosine, batch.weights * known)


TERMS: dict[str, Term] = {
    "emb": embedding_loss,
    "kd": soft_label_loss,
    "ce": label_loss,
    "rkd": relational_loss,
    "hid": hidden_loss,
    "rel": relation_loss,
    "anchor": anchor_loss,
    "unsure": unsure_loss,
    "rationale": rationale_loss,
    "mixup": mixup_loss,
    "exit": exit_loss,
}


def active_terms(recipe: ObjectiveRecipe) -> dict[str, float]:
    """Weight by name of every term that counts."""
    return {name: getattr(recipe, name) for name in TERMS if getattr(recipe, name) > 0}


def terms(out: Output, batch: Batch, recipe: ObjectiveRecipe) -> dict[str, Tensor]:
    """Every active term, weighted; that of the early exit only where there is one."""
    return {
        name: weight * TERMS[name](out, batch, recipe)
        for name, weight in active_terms(recipe).items()
        if name != "exit" or out.early is not None
    }


def capped(soft: Tensor, cap: float) -> Tensor:
    """Moves what is above `cap` of the best class to the others: a teacher is never that sure."""
    classes = soft.shape[-1]
    top = soft.max(-1, keepdim=True).values
    over = (top - cap).clamp(min=0.0)
    return torch.where(soft == top, soft - over, soft + over / max(classes - 1, 1))


def _softened(soft: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(soft || logits) a row, both softened; the square keeps gradients alike."""
    teacher = torch.softmax(torch.log(soft.clamp(min=1e-6)) / temperature, -1)
    student = torch.log_softmax(logits / temperature, -1)
    return temperature**2 * (teacher * (teacher.clamp(min=1e-12).log() - student)).sum(-1)


def _mean(rows: Tensor, weights: Tensor) -> Tensor:
    return (rows * weights).sum() / weights.sum().clamp(min=1e-9)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _relation(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """KL between softmaxed self-products; heads are joined, so their numbers may differ."""
    bias = (1.0 - mask.float())[:, None, :] * -1e4

    def relate(x: Tensor) -> Tensor:
        joined = x.transpose(1, 2).flatten(2)
        return torch.log_softmax(
            joined @ joined.transpose(1, 2) / joined.shape[-1] ** 0.5 + bias, -1
        )

    old, new = relate(teacher), relate(student)
    rows = (old.exp() * (old - new)).sum(-1) * mask.float()
    return rows.sum() / mask.sum().clamp(min=1)
