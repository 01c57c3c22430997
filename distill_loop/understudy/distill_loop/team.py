"""Who else takes part in the training of one student: nobody, or workers that share each batch.

The training function is the same for both. A worker learns from its share of a batch; gradients are
averaged before the step, weighted by rows, so that all workers take the same step and hold the same
weights. Terms that compare the rows of a batch with each other compare those of a share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B")


class Team(Protocol):
    """What the training loop asks of whoever takes part."""

    @property
    def device(self) -> torch.device:
        """Where this worker's tensors live."""
        ...

    def share(self, rows: Sequence[int]) -> list[int]:
        """The rows of a batch that are this worker's; at least one."""
        ...

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes the gradients those of the whole batch, after the rows were shared."""
        ...


class Alone:
    """One process does it all."""

    device = torch.device("cpu")

    def share(self, rows: Sequence[int]) -> list[int]:
        """All of them."""
        return list(rows)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """They are already."""


@dataclass
class Workers:
    """One of several workers of a process group that `torch.distributed` has set up.

    Attributes:
        rank: Number of this worker, from 0.
        size: How many there are.
        device: Where this worker's tensors live.
    """

    rank: int
    size: int
    device: torch.device
    _weight: float = 0.0

    def share(self, rows: Sequence[int]) -> list[int]:
        """Every `size`-th row; a worker left without one looks at the first, for nothing."""
        mine = list(rows[self.rank :: self.size])
        self._weight = len(mine) / len(rows)
        return mine or [rows[0]]

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """One sum over all workers of every gradient times its worker's part of the rows."""
        trained = [p for p in parameters if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([grad.reshape(-1) for grad in grads]) * self._weight
        torch.distributed.all_reduce(flat)
        start = 0
        for parameter in trained:
            part = flat[start : start + parameter.numel()]
            parameter.grad = part.reshape(parameter.shape).clone()
            start += parameter.numel()


ALONE = Alone()


def placed(batch: B, device: torch.device) -> B:
    """A frozen value with every tensor in it on a device."""
    if device.type == "cpu":
        return batch
    moved = {f.name: _placed(getattr(batch, f.name), device) for f in fields(batch)}  # type: ignore[arg-type] # a dataclass
    return replace(batch, **moved)  # type: ignore[type-var] # a dataclass


def _placed(value: Any, device: torch.device) -> Any:  # noqa: ANN401 - any field
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_placed(item, device) for item in value)
    return value
