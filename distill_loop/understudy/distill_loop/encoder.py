"""A BERT-like encoder in plain torch: token ids in, one unit sentence vector a row out.

Our own lines instead of a library's model, because a student may have heads and feed-forward
widths that differ by layer, share a layer, or route tokens; and because the graph that is exported
should hold nothing but what runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """The shape of an encoder; with its weights, all that is needed to rebuild it.

    Attributes:
        vocabulary: Rows of the word embedding.
        positions: Longest input in tokens.
        hidden: Width of a layer.
        vector: Length of the sentence vector.
        heads: Attention heads by block.
        head_size: Width of one attention head.
        ffn: Feed-forward width by block.
        uses: Block run at each depth; a block named twice is shared.
        epsilon: Of the layer norms.
        experts: Feed-forward experts by block; 1 is an ordinary layer.
        top_k: Experts that a token goes to.
        capacity: Share of the tokens a routed depth works on; 1 for all.
        prompt: Learned vectors put before every input.
        static: True for a table of word vectors without layers.
        exit: Depth after which a row may stop; 0 for none.
        exit_cut: What the exit's gate must exceed, a log-odds.
    """

    vocabulary: int
    positions: int
    hidden: int
    vector: int
    heads: tuple[int, ...]
    head_size: int
    ffn: tuple[int, ...]
    uses: tuple[int, ...]
    epsilon: float = 1e-12
    experts: int = 1
    top_k: int = 1
    capacity: float = 1.0
    prompt: int = 0
    static: bool = False
    exit: int = 0
    exit_cut: float = 0.0


@dataclass(slots=True)
class Trace:
    """What an encoder computed on the way, for objectives that look inside.

    Attributes:
        hidden: Token states after the embedding and after each depth, each (B, S, hidden).
        queries: Queries of the last layer, (B, H, S, d).
        values: Values of the last layer, (B, H, S, d).
        penalty: Sum of the routers' balance terms.
        early: Unit vectors (B, vector) and gates (B,) of the early exit.
    """

    hidden: list[Tensor] = field(default_factory=list)
    queries: Tensor | None = None
    values: Tensor | None = None
    penalty: Tensor | None = None
    early: tuple[Tensor, Tensor] | None = None


class Attention(nn.Module):
    """Self-attention with its residual and norm; one matrix makes queries, keys and values."""

    def __init__(self, hidden: int, heads: int, head_size: int, epsilon: float) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.qkv = nn.Linear(hidden, 3 * heads * head_size)
        self.out = nn.Linear(heads * head_size, hidden)
        self.norm = nn.LayerNorm(hidden, eps=epsilon)

    def forward(self, x: Tensor, bias: Tensor, trace: Trace | None) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, self.head_size).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        if trace is not None:
            trace.queries, trace.values = q, v
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.head_size) + bias, dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        return self.norm(x + self.out(mixed))


class FeedForward(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(hidden, width), nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Experts(nn.Module):
    """Mixture of experts; every expert runs and a gate masks, so that the graph stays static.

    The balance term is the classic one: experts times the sum over experts of (share of tokens
    sent there) times (mean gate), which is 1 when all are used alike.
    """

    def __init__(self, hidden: int, width: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(hidden, experts)
        self.experts = nn.ModuleList(FeedForward(hidden, width) for _ in range(experts))

    def route(self, x: Tensor) -> Tensor:
        """Gate weights (B, S, E): zero outside the best `top_k`, each token's sum 1."""
        gates = torch.softmax(self.gate(x), dim=-1)
        floor = gates.topk(self.top_k, dim=-1).values[..., -1:]
        kept = torch.where(gates >= floor, gates, torch.zeros_like(gates))
        return kept / kept.sum(-1, keepdim=True)

    def balance(self, x: Tensor) -> Tensor:
        sent = (self.route(x) > 0).float().mean((0, 1)) / self.top_k
        used = torch.softmax(self.gate(x), dim=-1).mean((0, 1))
        return len(self.experts) * (sent * used).sum()

    def forward(self, x: Tensor) -> Tensor:
        weights = self.route(x)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (weights.unsqueeze(-1) * outputs).sum(-2)


class Block(nn.Module):
    """One transformer layer, as in BERT: norm after the residual."""

    def __init__(self, spec: EncoderSpec, index: int) -> None:
        super().__init__()
        heads, width = spec.heads[index], spec.ffn[index]
        self.attention = Attention(spec.hidden, heads, spec.head_size, spec.epsilon)
        self.ffn: FeedForward | Experts = (
            FeedForward(spec.hidden, width)
            if spec.experts == 1
            else Experts(spec.hidden, width, spec.experts, spec.top_k)
        )
        self.norm = nn.LayerNorm(spec.hidden, eps=spec.epsilon)

    def forward(self, x: Tensor, bias: Tensor, trace: Trace | None) -> Tensor:
        x = self.attention(x, bias, trace)
        if trace is not None and isinstance(self.ffn, Experts):
            balance = self.ffn.balance(x)
            trace.penalty = balance if trace.penalty is None else trace.penalty + balance
        return self.norm(x + self.ffn(x))


class Router(nn.Module):
    """Mixture of depths: a score per token; tokens under the cut skip the layer.

    The cut is a learned threshold instead of a top-k over the sequence, so that a row's answer does
    not depend on padding or on its neighbours; `usage` keeps the share near the capacity.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Shares (B, S, 1) in [0, 1]: hard in the forward pass, soft in the gradient."""
        soft = torch.sigmoid(self.score(x))
        hard = (soft > 0.5).to(soft.dtype)
        return hard + soft - soft.detach() if self.training else hard


class Exit(nn.Module):
    """An early exit: a map from the sentence vector there to the last one, and a gate."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, size)
        self.gate = nn.Linear(size, 1)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, D), and gates (B,)."""
        early = self.project(vector)
        unit = early / early.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return unit, self.gate(vector).squeeze(-1)


class Encoder(nn.Module):
    """Embeddings, blocks, mean over real tokens, unit length."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.words = nn.Embedding(spec.vocabulary, spec.hidden)
        self.places = nn.Embedding(spec.positions + spec.prompt, spec.hidden)
        self.norm = nn.LayerNorm(spec.hidden, eps=spec.epsilon)
        self.blocks = nn.ModuleList(Block(spec, i) for i in range(len(spec.heads)))
        routed = spec.capacity < 1.0
        self.routers = nn.ModuleList(Router(spec.hidden) for _ in (spec.uses[1:] if routed else ()))
        self.prompt = nn.Parameter(torch.zeros(spec.prompt, spec.hidden)) if spec.prompt else None
        narrow = spec.hidden != spec.vector
        self.project = nn.Linear(spec.hidden, spec.vector, bias=False) if narrow else None
        self.exit = Exit(spec.vector) if spec.exit else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, trace: Trace | None = None
    ) -> Tensor:
        """Sentence vectors.

        Args:
            input_ids: Token ids, int64, (B, S).
            attention_mask: 1 for a token, 0 for padding, int64, (B, S).
            trace: Filled with what objectives may want to see.

        Returns:
            Unit rows, float32, (B, vector).
        """
        x, mask = self._embed(input_ids, attention_mask)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        if trace is not None:
            trace.hidden.append(x)
        if self.exit is None:
            return self.pool(self._steps(0, x, bias, trace), mask)
        return self._or_early(self.exit, x, mask, bias, trace)

    def _steps(
        self, start: int, x: Tensor, bias: Tensor, trace: Trace | None, stop: int | None = None
    ) -> Tensor:
        """Token states after the depths from `start` on, up to `stop`."""
        for depth, block in list(enumerate(self.spec.uses))[start:stop]:
            x = self._step(depth, block, x, bias, trace)
            if trace is not None:
                trace.hidden.append(x)
        return x

    def _or_early(
        self, leave: Exit, x: Tensor, mask: Tensor, bias: Tensor, trace: Trace | None
    ) -> Tensor:
        """Each row's early vector where its gate is open, else its last one.

        A row's answer does not depend on its neighbours: the later layers are left out only when
        every row of the batch may stop.
        """
        at = self.spec.exit
        x = self._steps(0, x, bias, trace, at)
        early, gate = leave(self.pool(x, mask))
        if trace is not None:
            trace.early = early, gate
        if self.training:
            return self.pool(self._steps(at, x, bias, trace), mask)
        open_ = (gate > self.spec.exit_cut).unsqueeze(-1)

        def stay(early: Tensor, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG001 - both sides of a condition take the same
            return early.clone()

        def go_on(early: Tensor, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
            late = self.pool(self._steps(at, x, bias, None), mask)
            return torch.where(open_, early, late)

        given = (early, x, mask, bias)
        if torch.compiler.is_exporting():
            vectors: Tensor = torch.cond(open_.all(), stay, go_on, given)
            return vectors
        return go_on(*given)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean over real tokens of (B, S, hidden), projected, unit length."""
        summed = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        vector = summed if self.project is None else self.project(summed)
        return vector / vector.norm(dim=-1, keepdim=True).clamp(min=1e-9)

    def _embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = attention_mask.to(torch.float32)
        x = self.words(input_ids)
        if self.prompt is not None:
            rows = input_ids.shape[0]
            x = torch.cat([self.prompt.unsqueeze(0).expand(rows, -1, -1), x], dim=1)
            mask = torch.cat([mask.new_ones(rows, self.spec.prompt), mask], dim=1)
        return self.norm(x + self._positions(input_ids.shape[1])), mask

    def _positions(self, length: int) -> Tensor:
        """Places of the words from 0; those of the prompt, which stands before them, lie behind."""
        words = self.places.weight[:length]
        if self.prompt is None:
            return words
        return torch.cat([self.places.weight[self.spec.positions :], words])

    def _step(self, depth: int, block: int, x: Tensor, bias: Tensor, trace: Trace | None) -> Tensor:
        out: Tensor = self.blocks[block](x, bias, trace)
        if not self.routers or depth == 0:
            return out
        share = self.routers[depth - 1](x)
        if trace is not None:
            penalty = (share.mean() - self.spec.capacity).clamp(min=0.0)
            trace.penalty = penalty if trace.penalty is None else trace.penalty + penalty
        return share * out + (1.0 - share) * x


def parameter_count(encoder: nn.Module) -> int:
    """Unique parameters."""
    return sum(p.numel() for p in encoder.parameters())
