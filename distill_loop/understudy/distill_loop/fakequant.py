"""Rounding in training as the INT8 graph rounds: the last steps learn to live with it.

Forward, weights and activations are rounded by the scheme of ONNX Runtime's dynamic quantisation
(weights symmetric a channel, inputs asymmetric a row); backward, the rounding is not there. What is
exported afterwards is the plain float graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.distill_loop.encoder import Encoder

FULL, REDUCED = 254, 128
"""Steps between the lowest and the highest weight: 8 bits, and 7 that never saturate."""


class Rounded(nn.Module):
    """A linear map that computes as its INT8 form will."""

    def __init__(self, linear: nn.Linear, steps: int) -> None:
        super().__init__()
        self.linear, self.steps = linear, steps

    def forward(self, x: Tensor) -> Tensor:
        weight = round_weight(self.linear.weight, self.steps)
        return F.linear(round_input(x), weight, self.linear.bias)


class RoundedTable(nn.Module):
    """An embedding whose rows are rounded to 256 steps, by one scale and zero for the table."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    @property
    def weight(self) -> Tensor:
        """The rows as they are kept."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        low, high = torch.aminmax(self.table.weight.detach())
        return _round(self.table(ids), low, high)


def round_weight(weight: Tensor, steps: int) -> Tensor:
    """Symmetric rounding, a scale for each output row."""
    limit = weight.detach().abs().amax(dim=-1, keepdim=True)
    scale = (2.0 * limit / steps).clamp(min=1e-12)
    return _through(weight, torch.round(weight.detach() / scale) * scale)


def round_input(x: Tensor) -> Tensor:
    """Rounding to 256 steps between the least and the largest number of each row of the batch."""
    axes = tuple(range(1, x.dim()))
    return _round(x, x.detach().amin(axes, keepdim=True), x.detach().amax(axes, keepdim=True))


def _round(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Asymmetric rounding of numbers between low and high; zero is always one of the steps."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=1e-12)
    zero = torch.round(-low / scale)
    rounded = (torch.round(x.detach() / scale) + zero).clamp(0.0, 255.0)
    return _through(x, (rounded - zero) * scale)


def _through(exact: Tensor, rounded: Tensor) -> Tensor:
    """The rounded numbers, with the gradient of the exact ones."""
    return exact + (rounded - exact).detach()


def start_rounding(encoder: Encoder, *, reduced: bool) -> None:
    """Puts every linear map and the word table of an encoder behind rounding; weights are shared.

    Maps inside adapters are left out: what is merged later is not what would be rounded here.
    """
    steps = REDUCED if reduced else FULL
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not hasattr(parent, "merged"):
                setattr(parent, name, Rounded(child, steps))
    encoder.words = RoundedTable(encoder.words)  # type: ignore[assignment] # same calls


def stop_rounding(encoder: Encoder) -> None:
    """Takes the rounding out again."""
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Rounded):
                setattr(parent, name, child.linear)
            if isinstance(child, RoundedTable):
                setattr(parent, name, child.table)
