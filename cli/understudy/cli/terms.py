"""What the options of a simulation come to: the recipe, the audits, the calls that may be made.

Pure: values in, values out. With a budget the defaults are those of a stream that must learn fast
from few answers; without one they are those of a product that escalates until it is certified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from understudy.distill_loop.recipe import Recipe
from understudy.edge.config import ContractConfig
from understudy.types.contract import Contract, Precedence
from understudy.types.errors import ConfigError

NIGHTLY, STREAMING = "intents-default", "stream"
AUDIT_RATE = 0.05
LEAST_AUDIT_RATE = 0.005
"""Under a budget audits take a fortieth of it, but never less: a fleet without audits is blind."""
EARLY_LEAD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a simulation keeps to.

    Attributes:
        recipe: Name of the recipe, or its file.
        audit_rate: Share of requests whose coin falls.
        budget: Largest share of teacher calls; 1 for no limit.
        early_lead: How much more of the budget is spent at first, in [0, 1).
        refresh_every: Head-only refresh after so many new answers; 0 for nights only.
    """

    recipe: str
    audit_rate: float
    budget: float
    early_lead: float
    refresh_every: int


def audit_rate_of(wanted: float | None, budget: float) -> float:
    """The audit rate: as wanted, else a small part of the budget."""
    if wanted is not None:
        return wanted
    return AUDIT_RATE if budget >= 1.0 else min(AUDIT_RATE, max(LEAST_AUDIT_RATE, budget / 40.0))


def recipe_of(wanted: str, budget: float) -> str:
    """The recipe: as wanted, else the one for the case."""
    return wanted or (STREAMING if budget < 1.0 else NIGHTLY)


def refresh_of(wanted: int | None, budget: float, recipe: Recipe) -> int:
    """After how many answers the head is refreshed: as wanted, else by the recipe's schedule.

    Without a budget the first days escalate everything, and a refresh every hundred answers would
    cost more than the night that follows: then only the nights learn, unless they train no encoder.
    """
    if wanted is not None:
        return wanted
    by_schedule = budget < 1.0 or recipe.distil.epochs == 0
    return recipe.schedule.refresh_labels if by_schedule else 0


def calls_of(budget: float, requests: int) -> int | None:
    """How many calls the budget is worth over the whole stream; None for no limit."""
    # The tiny summand: 0.29 * 100 is 28.999999999999996.
    return None if budget >= 1.0 else math.floor(budget * requests + 1e-9)


def night_calls_of(recipe: Recipe) -> int:
    """Answers one night may ask for, at most."""
    return recipe.data.teacher_budget + 2 * recipe.data.generate


def edge_contract(terms: Terms, contract: Contract, requests: int, reserved: int) -> ContractConfig:
    """What the client is told: the budget without what the nights will ask for.

    Raises:
        ConfigError: If the nights alone would ask for more than the budget.
    """
    calls = calls_of(terms.budget, requests)
    if calls is None:
        return ContractConfig(precedence=contract.precedence)
    if reserved >= calls:
        raise ConfigError(
            f"a budget of {terms.budget:g} over {requests} requests is {calls} calls, and the"
            f" nights of recipe '{terms.recipe}' may ask for {reserved}: raise --budget or lower"
            " data.teacher_budget"
        )
    return ContractConfig(
        max_teacher_share=(calls - reserved) / requests,
        precedence=contract.precedence,
        early_lead=terms.early_lead,
        early_requests=requests,
    )


def contract_under(contract: Contract, budget: float) -> Contract:
    """A budget is a limit: it wins, and answers say that they are not certified while it does."""
    return replace(contract, precedence=Precedence.BUDGET) if budget < 1.0 else contract
