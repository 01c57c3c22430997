"""The training loop: deterministic, bounded in steps, and short enough to read.

Given recipe, rows and seed it gives the same weights on the same machine: batches come from a
seeded generator, threads are part of the recipe, and nothing else is random.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from understudy.distill_loop.encoder import Encoder, Trace
from understudy.distill_loop.fakequant import start_rounding, stop_rounding
from understudy.distill_loop.objective import Batch, Early, Output, active_terms, terms
from understudy.distill_loop.recipe import DistilRecipe, ObjectiveRecipe, Recipe
from understudy.distill_loop.student import StudentModel, Tokens, tokenise
from understudy.distill_loop.team import ALONE, Team, placed
from understudy.edge.bundle import Head

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What there is to learn; all arrays have N rows.

    Attributes:
        texts: The inputs.
        vectors: Sentence vectors of the base, (N, D).
        soft: Distributions of the teacher, (N, C); rows of zeros where there is none.
        labels: Class index, (N,); -1 where there is none.
        weights: Row weights, (N,).
        champion: Logits of the champion, (N, C); None without champion.
        rationales: Vectors of the teacher's rationales, (N, D), zero where none; None without.
        tasks: Task of each row, (N,); None for one task.
        spans: First column and the one behind the last of each task, where there are several.
    """

    texts: Sequence[str]
    vectors: Floats
    soft: Floats
    labels: NDArray[np.int64]
    weights: Floats
    champion: Floats | None = None
    rationales: Floats | None = None
    tasks: NDArray[np.int64] | None = None
    spans: tuple[tuple[int, int], ...] = ()

    def columns(self, row: int) -> slice:
        """The columns of the task that a row belongs to; a batch is of one task."""
        return slice(None) if self.tasks is None else slice(*self.spans[self.tasks[row]])


@dataclass(frozen=True, slots=True)
class Trained:
    """An encoder that learned, and how it went.

    Attributes:
        model: The student.
        steps: Steps done.
        losses: Mean of each weighted term in the last epoch.
        gradient_share: Share of each term in the gradient's norm at the sentence vector.
    """

    model: StudentModel
    steps: int
    losses: dict[str, float]
    gradient_share: dict[str, float] = field(default_factory=dict)


def distil(
    model: StudentModel,
    lesson: Lesson,
    head: Head,
    recipe: Recipe,
    *,
    base: StudentModel | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Trained:
    """Trains an encoder.

    Args:
        model: The student to start from; not changed.
        lesson: What to learn.
        head: Head on the base's vectors; the student's own head starts from it.
        recipe: How long, how fast, by which terms, from which seed.
        base: The whole base; needed by the terms `hid` and `rel` only.
        progress: Called with steps done and steps in all.
        team: Who else takes part; this process alone by default.
    """
    torch.set_num_threads(recipe.distil.threads)
    torch.manual_seed(recipe.seed)
    trainer = _Trainer(copy.deepcopy(model), lesson, head, recipe, base, team)
    lengths = [len(i) for i in trainer.tokens.ids]
    order = plan_batches(lengths, recipe.distil, recipe.seed, lesson.tasks)
    for step, rows in enumerate(order):
        trainer.step(step, len(order), rows)
        if progress is not None:
            progress(step + 1, len(order))
    return trainer.finish(len(order))


def plan_batches(
    lengths: Sequence[int],
    recipe: DistilRecipe,
    seed: int,
    tasks: NDArray[np.int64] | None = None,
) -> list[list[int]]:
    """Row numbers of every batch of the run: shuffled, rows of one task and like length together.

    Length decides with some noise, so that the same rows do not always meet.
    """
    if not lengths or not recipe.epochs:
        return []
    steps_an_epoch = math.ceil(len(lengths) / recipe.batch)
    wanted = max(recipe.epochs * steps_an_epoch, recipe.min_steps)
    batches: list[list[int]] = []
    generator = np.random.default_rng(seed)
    while len(batches) < min(wanted, recipe.max_steps):
        batches.extend(_epoch(np.asarray(lengths), tasks, recipe.batch, generator))
    return batches[: min(wanted, recipe.max_steps)]


def _epoch(
    lengths: NDArray[np.int64],
    tasks: NDArray[np.int64] | None,
    batch: int,
    generator: np.random.Generator,
) -> Iterator[list[int]]:
    noisy = lengths + generator.uniform(0, 4, len(lengths))
    group = np.zeros(len(lengths), np.int64) if tasks is None else tasks
    order = np.lexsort((noisy, group))
    ends = [*(np.flatnonzero(np.diff(group[order])) + 1).tolist(), len(order)]
    starts = [0, *ends[:-1]]
    cuts = [
        order[place : min(place + batch, end)]
        for start, end in zip(starts, ends, strict=True)
        for place in range(start, end, batch)
    ]
    for number in generator.permutation(len(cuts)):
        yield [int(row) for row in cuts[number]]


class _Trainer:
    """State of one run: weights, optimiser, average."""

    def __init__(
        self,
        model: StudentModel,
        lesson: Lesson,
        head: Head,
        recipe: Recipe,
        base: StudentModel | None,
        team: Team,
    ) -> None:
        self.model, self.lesson, self.team = model, lesson, team
        self.recipe, self.objective = recipe.distil, recipe.objective
        self.reduced = recipe.compress.cpu == "portable"
        self.chance = np.random.default_rng((recipe.seed, 1))
        self.tokens: Tokens = tokenise(model.tokenizer, lesson.texts)
        self.head = _linear(head)
        size = model.encoder.spec.vector
        self.rationale = nn.Linear(size, size) if self.objective.rationale > 0 else None
        self.watcher = _Watcher(base, model, lesson.texts) if looks_inside(self.objective) else None
        for part in (model.encoder, self.head, self.rationale, base.encoder if base else None):
            if part is not None:
                part.to(team.device)
        self.average: Encoder | None = copy.deepcopy(model.encoder) if self.recipe.average else None
        self.optimiser = torch.optim.AdamW(self._groups(), weight_decay=self.recipe.weight_decay)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.sums: dict[str, float] = {}
        self.share: dict[str, float] = {}
        self.scale: dict[str, float] = {}

    def _groups(self) -> list[dict[str, object]]:
        encoder, recipe = self.model.encoder.train(), self.recipe
        encoder.words.requires_grad_(recipe.embedding_rate > 0)
        encoder.places.requires_grad_(recipe.embedding_rate > 0)
        words = [*encoder.words.parameters(), *encoder.places.parameters()]
        named = {id(p) for p in words}
        body = [p for p in encoder.parameters() if id(p) not in named and p.requires_grad]
        heads = [*self.head.parameters(), *(self.rationale.parameters() if self.rationale else ())]
        groups: list[dict[str, object]] = [
            {"params": body, "lr": recipe.body_rate},
            {"params": heads, "lr": recipe.head_rate},
        ]
        if recipe.embedding_rate > 0:
            groups.append({"params": words, "lr": recipe.embedding_rate})
        return groups

    def step(self, step: int, steps: int, rows: Sequence[int]) -> None:
        """One batch: forward, terms, gradient, one step of the optimiser."""
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule(step, steps, self.recipe.warm_up)
        if self._rounds and step == math.floor(steps * (1.0 - self.recipe.quantised)):
            start_rounding(self.model.encoder, reduced=self.reduced)
        rows = self.team.share(rows)
        out = self._forward(rows)
        batch = placed(self._batch(rows, out), self.team.device)
        named = terms(out, batch, self.objective)
        if step % max(steps // 4, 1) == 0:
            self._weigh(named, out.vectors)
        loss = torch.stack([self.scale.get(k, 1.0) * v for k, v in named.items()]).sum()
        if out.trace is not None and out.trace.penalty is not None:
            loss = loss + 0.01 * out.trace.penalty
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average(p for group in self.optimiser.param_groups for p in group["params"])
        nn.utils.clip_grad_norm_(self.model.encoder.parameters(), 1.0)
        self.optimiser.step()
        self._remember(named, steps - step)

    @property
    def _rounds(self) -> bool:
        """True if the last steps round as INT8 does; a table ships in halves and does not."""
        return self.recipe.quantised > 0 and not self.model.encoder.spec.static

    def _forward(self, rows: Sequence[int]) -> Output:
        ids, mask = (part.to(self.team.device) for part in self.tokens.batch(rows))
        spec = self.model.encoder.spec
        wants = self.watcher is not None or spec.experts > 1 or spec.capacity < 1.0 or spec.exit
        trace = Trace() if wants else None
        vectors = self.model.encoder(ids, mask, trace)
        rationale = self.rationale(vectors) if self.rationale is not None else None
        columns = self.lesson.columns(rows[0])
        early = None
        if trace is not None and trace.early is not None:
            there, gate = trace.early
            early = Early(there, self.head(there)[:, columns], gate)
        return Output(vectors, self.head(vectors)[:, columns], mask, trace, rationale, early)

    def _batch(self, rows: Sequence[int], out: Output) -> Batch:
        lesson, index = self.lesson, list(rows)
        columns = lesson.columns(rows[0])
        mixes = self.objective.mixup > 0
        partner = torch.from_numpy(self.chance.permutation(len(index))) if mixes else None
        alpha = self.objective.mixup_alpha
        batch = Batch(
            vectors=torch.from_numpy(lesson.vectors[index]),
            soft=torch.from_numpy(lesson.soft[index, columns]),
            labels=torch.from_numpy(lesson.labels[index] - (columns.start or 0)),
            weights=torch.from_numpy(lesson.weights[index]),
            champion=_rows(lesson.champion, index, columns),
            rationales=_rows(lesson.rationales, index, slice(None)),
            partner=partner,
            share=float(self.chance.beta(alpha, alpha)) if mixes else 1.0,
        )
        return batch if self.watcher is None else self.watcher.add(batch, rows, out.mask)

    def _weigh(self, named: dict[str, Tensor], vectors: Tensor) -> None:
        """Measures each term's gradient at the sentence vector; balances them when asked to."""
        norms: dict[str, float] = {}
        for name, value in named.items():
            (gradient,) = torch.autograd.grad(
                value, vectors, retain_graph=True, materialize_grads=True
            )
            norms[name] = float(gradient.norm())
        total = sum(norms.values()) or 1.0
        self.share = {name: norm / total for name, norm in norms.items()}
        if self.objective.balance:
            mean = total / max(len(norms), 1)
            self.scale = {k: min(max(mean / n, 0.1), 10.0) for k, n in norms.items() if n > 0}

    def _remember(self, named: dict[str, Tensor], steps_left: int) -> None:
        if self.average is not None:
            decay = self.recipe.average
            with torch.no_grad():
                pairs = zip(self.average.parameters(), self.model.encoder.parameters(), strict=True)
                for kept, new in pairs:
                    kept.lerp_(new, 1.0 - decay)
        if steps_left <= math.ceil(len(self.lesson.texts) / self.recipe.batch):
            for name, value in named.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def finish(self, steps: int) -> Trained:
        """Freezes what was learned."""
        stop_rounding(self.model.encoder)
        encoder = self.average if self.average is not None else self.model.encoder
        last = max(min(steps, math.ceil(len(self.lesson.texts) / self.recipe.batch)), 1)
        losses = {name: value / last for name, value in self.sums.items()}
        model = replace(self.model, encoder=encoder.eval().cpu())
        return Trained(model, steps, losses, self.share)


class _Watcher:
    """Runs the base beside the student, for terms that compare inner states.

    Pooled states are compared per sentence, because the student's tokens may differ. Relations need
    the same tokens, so the base's vocabulary must be kept whole.
    """

    def __init__(
        self, base: StudentModel | None, model: StudentModel, texts: Sequence[str]
    ) -> None:
        if base is None:
            raise ValueError("the terms hid and rel need the base")
        self.base, self.layers = base, model.layer_map
        # Cut where the student cuts: relations are between the same tokens, or none.
        self.tokens = tokenise(base.tokenizer, texts, model.encoder.spec.positions)

    def add(self, batch: Batch, rows: Sequence[int], mask: Tensor) -> Batch:
        """The batch with the base's hidden states and relations."""
        ids, base_mask = (part.to(mask.device) for part in self.tokens.batch(rows))
        trace = Trace()
        with torch.inference_mode():
            self.base.encoder(ids, base_mask, trace)
        weights = base_mask.unsqueeze(-1).float()
        hidden = tuple(
            ((trace.hidden[layer + 1] * weights).sum(1) / weights.sum(1)).clone()
            for layer in self.layers
        )
        same = base_mask.shape == mask.shape
        relations = (
            (trace.queries.clone(), trace.values.clone())
            if same and trace.queries is not None and trace.values is not None
            else None
        )
        return replace(batch, hidden=hidden, relations=relations)


def schedule(step: int, steps: int, warm_up: float) -> float:
    """Factor of the learning rate: linear rise, then half a cosine down to zero."""
    rise = max(int(steps * warm_up), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def _rows(values: Floats | None, index: list[int], columns: slice) -> Tensor | None:
    return None if values is None else torch.from_numpy(values[index, columns])


def _linear(head: Head) -> nn.Linear:
    classes, size = head.weight.shape
    linear = nn.Linear(size, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        linear.bias.copy_(torch.from_numpy(head.bias))
    return linear


def looks_inside(objective: ObjectiveRecipe) -> bool:
    """True if a term compares inner states with the base's, which must then be there."""
    return bool({"hid", "rel"} & set(active_terms(objective)))
