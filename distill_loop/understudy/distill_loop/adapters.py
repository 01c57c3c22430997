"""Low-rank adapters: the base stays, a small update learns, and one matrix ships."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from understudy.distill_loop.encoder import Encoder
from understudy.types.errors import ConfigError


class LowRank(nn.Module):
    """A frozen linear map plus an update of low rank, zero at first."""

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float = 2.0) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(requires_grad=False)
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frozen(x)
        return out + self.alpha * (x @ self.down.T) @ self.up.T

    def merged(self) -> nn.Linear:
        """One ordinary map that does the same."""
        linear = nn.Linear(self.frozen.in_features, self.frozen.out_features)
        with torch.no_grad():
            linear.weight.copy_(self.frozen.weight + self.alpha * self.up @ self.down)
            linear.bias.copy_(self.frozen.bias)
        return linear


def add_lora(encoder: Encoder, rank: int) -> Encoder:
    """The encoder with adapters on attention and feed-forward; nothing else learns.

    Raises:
        ConfigError: If the rank is not positive.
    """
    if rank < 1:
        raise ConfigError("student.options: rank must be at least 1")
    torch.manual_seed(0)
    adapted = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
    for parent, name, linear in _linears(adapted):
        setattr(parent, name, LowRank(linear, rank))
    return adapted


def merge_adapters(encoder: Encoder) -> Encoder:
    """The encoder with every adapter merged; unchanged when there are none."""
    merged = copy.deepcopy(encoder)
    for parent in list(merged.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRank):
                setattr(parent, name, child.merged())
    return merged


def _linears(encoder: Encoder) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (parent, name, child)
        for parent in encoder.blocks.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
