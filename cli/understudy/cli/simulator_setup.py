"""What a simulation needs before anything is written: its rows, recipe, terms and teacher.

Whatever the user got wrong is found here, so that a wrong word leaves no folder behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from understudy.cli.night_inputs import as_examples
from understudy.cli.ordering import Order, advice, order_of, ordered
from understudy.cli.rows import Row, read_rows, require_labels
from understudy.cli.teachers import make_teacher
from understudy.cli.terms import (
    EARLY_LEAD,
    Terms,
    audit_rate_of,
    calls_of,
    contract_under,
    edge_contract,
    night_calls_of,
    recipe_of,
    refresh_of,
)
from understudy.cloud.teacher import TeacherEngine
from understudy.distill_loop.recipe import Recipe, load_recipe
from understudy.distill_loop.rows import Example
from understudy.edge.config import ContractConfig
from understudy.types.contract import Contract
from understudy.types.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What a person may choose.

    Attributes:
        seed: Labelled rows the student starts from.
        stream: The traffic: by `ts` where every row has one, else as the file has it.
        test: Held-out labelled rows; None for none.
        out: Folder of everything the simulation makes.
        teacher: Its name, as on the command line.
        contract: What is promised.
        audit_rate: Share of requests whose coin falls; None for what suits the budget.
        budget: Largest share of teacher calls; 1 for no limit.
        early_lead: How much more of the budget is spent at first, in [0, 1).
        days: Parts the stream is cut into, where rows do not name their day.
        recipe: Recipe of the nights; empty for what suits the budget.
        rng: Seed of the nights.
        node: Folder of an enrolled node, for a gateway that asks for certificates.
        refresh_every: Head-only refresh after so many new teacher answers, 0 for nights only; None
            for what suits the recipe.
        shuffle: True to play the stream in a random order, that of `rng`.
    """

    seed: Path
    stream: Path
    out: Path
    test: Path | None = None
    teacher: str = "replay"
    contract: Contract
    audit_rate: float | None = None
    budget: float = 1.0
    early_lead: float = EARLY_LEAD
    days: int = 5
    recipe: str = ""
    rng: int = 17
    node: Path | None = None
    refresh_every: int | None = None
    shuffle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything a simulation starts from.

    Attributes:
        options: What was asked for.
        days: The stream's rows, day by day.
        test: Held-out rows; none to measure nothing on them.
        seed: The rows the student starts from, as the night wants them.
        recipe: Recipe of the nights, under this run's contract.
        terms: What the options come to.
        edge: What the client is told of contract and budget.
        calls: Calls of the teacher's that may be made in all; None for any number.
        labels: What the seed names, sorted.
        order: What the order of the rows came from.
        advice: One line for who gave the stream; empty for none.
        teacher: Not started.
    """

    options: SimulateOptions
    days: tuple[tuple[Row, ...], ...]
    test: tuple[Row, ...]
    seed: tuple[Example, ...]
    recipe: Recipe
    terms: Terms
    edge: ContractConfig
    calls: int | None
    labels: tuple[str, ...]
    order: Order
    advice: str
    teacher: TeacherEngine

    @property
    def requests(self) -> int:
        """Rows of the stream that will be played."""
        return sum(map(len, self.days))


def set_up(options: SimulateOptions) -> Setup:
    """Reads and checks everything; writes nothing.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If recipe, budget or teacher cannot be used.
    """
    seed, stream = read_rows(options.seed), read_rows(options.stream)
    require_labels(options.seed, seed)
    order = order_of(stream, shuffle=options.shuffle)
    days = split_days(ordered(stream, order, options.rng), options.days)
    recipe, terms = _terms(options)
    labels = tuple(sorted({row.recorded for row in seed}))
    nights = len(days) * night_calls_of(recipe)
    return Setup(
        options=options,
        days=days,
        test=read_rows(options.test) if options.test else (),
        seed=as_examples(seed),
        recipe=recipe,
        terms=terms,
        edge=edge_contract(terms, recipe.contract, len(stream), nights),
        calls=calls_of(options.budget, len(stream)),
        labels=labels,
        order=order,
        advice=advice(options.stream, stream, order),
        teacher=make_teacher(options.teacher, stream, labels, node=options.node, task=recipe.task),
    )


def _terms(options: SimulateOptions) -> tuple[Recipe, Terms]:
    name = recipe_of(options.recipe, options.budget)
    contract = contract_under(options.contract, options.budget)
    recipe = replace(load_recipe(name), seed=options.rng, contract=contract)
    return recipe, Terms(
        recipe=name,
        audit_rate=audit_rate_of(options.audit_rate, options.budget),
        budget=options.budget,
        early_lead=options.early_lead,
        refresh_every=refresh_of(options.refresh_every, options.budget, recipe),
    )


def split_days(rows: Sequence[Row], days: int) -> tuple[tuple[Row, ...], ...]:
    """Cuts a stream into days: by the rows' own days if all name one, else into equal parts.

    Raises:
        DataError: If there are fewer rows than days.
    """
    if all(row.day > 0 for row in rows):
        named = sorted({row.day for row in rows})
        return tuple(tuple(r for r in rows if r.day == day) for day in named)
    if len(rows) < days:
        raise DataError(f"{len(rows)} rows cannot be cut into {days} days; choose fewer --days")
    bounds = [round(index * len(rows) / days) for index in range(days + 1)]
    return tuple(tuple(rows[a:b]) for a, b in pairwise(bounds))
