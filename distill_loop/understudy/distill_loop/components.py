"""Further students, each a component: pruned, narrow, shared, mixtures, adapters.

All start from the slim student and return one; what they add is a transformation of its encoder.
Numbers that only one of them needs come from `student.options`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from understudy.distill_loop.adapters import add_lora
from understudy.distill_loop.base import Base
from understudy.distill_loop.encoder import Attention, Block, Encoder, Experts, FeedForward
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.student import StudentModel, cut_student
from understudy.types.errors import ConfigError


def pruned(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Fewer attention heads and a narrower feed-forward: the strongest stay.

    Raises:
        ConfigError: If the recipe keeps more than there is.
    """
    model = cut_student(recipe, base, texts)
    encoder = model.encoder
    if recipe.heads:
        encoder = prune_heads(encoder, recipe.heads)
    if recipe.ffn:
        encoder = prune_ffn(encoder, recipe.ffn)
    if recipe.hidden:
        encoder = narrow(encoder, recipe.hidden)
    return replace(model, encoder=encoder)


def shared(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """One block run `options.depth` times (default: once a kept layer), as in ALBERT.

    The block is the mean of the kept layers, so that it begins as all of them a little.
    """
    model = cut_student(recipe, base, texts)
    depth = int(recipe.options.get("depth", len(recipe.keep_layers)))
    spec = model.encoder.spec
    single = replace(spec, heads=spec.heads[:1], ffn=spec.ffn[:1], uses=(0,) * depth)
    encoder = _with_shell(Encoder(single), model.encoder)
    states = [block.state_dict() for block in model.encoder.blocks]
    mean = {k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]}
    encoder.blocks[0].load_state_dict(mean)
    return replace(model, encoder=encoder.eval(), layer_map=())


def mixture_of_experts(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Each feed-forward becomes `options.experts` copies (default 4) behind a gate.

    Copies are the dense layer's weights with a little noise: the mixture starts as that layer.
    """
    model = cut_student(recipe, base, texts)
    experts = int(recipe.options.get("experts", 4))
    top_k = int(recipe.options.get("top_k", 1))
    if not 1 <= top_k <= experts:
        raise ConfigError("student.options: top_k must lie between 1 and experts")
    if experts == 1:
        return model
    spec = replace(model.encoder.spec, experts=experts, top_k=top_k)
    encoder = _with_shell(Encoder(spec), model.encoder)
    torch.manual_seed(0)
    for new, old in zip(_blocks(encoder), _blocks(model.encoder), strict=True):
        new.attention.load_state_dict(old.attention.state_dict())
        new.norm.load_state_dict(old.norm.state_dict())
        _copy_experts(new.ffn, old.ffn)
    return replace(model, encoder=encoder.eval())


def mixture_of_depths(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Every layer but the first runs on the tokens its router picks, `options.capacity` of them.

    The graph computes the layer for all tokens and masks: what is learned is where depth matters.
    """
    model = cut_student(recipe, base, texts)
    capacity = float(recipe.options.get("capacity", 0.5))
    if not 0.0 < capacity <= 1.0:
        raise ConfigError("student.options: capacity must lie in (0, 1]")
    encoder = Encoder(replace(model.encoder.spec, capacity=capacity))
    _with_shell(encoder, model.encoder)
    encoder.blocks.load_state_dict(model.encoder.blocks.state_dict())
    return replace(model, encoder=encoder.eval())


def early_exit(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Rows may stop after depth `options.after` (default 1), where the gate is surer than `sure`.

    One graph with a condition: where every row of a batch may stop, the later layers do not run.
    """
    model = cut_student(recipe, base, texts)
    old, after = model.encoder, int(recipe.options.get("after", 1))
    sure = float(recipe.options.get("sure", 0.9))
    if not 1 <= after < len(old.spec.uses):
        raise ConfigError(f"student.options: after must lie in [1, {len(old.spec.uses) - 1}]")
    if not 0.0 < sure < 1.0:
        raise ConfigError("student.options: sure must lie in (0, 1)")
    encoder = Encoder(replace(old.spec, exit=after, exit_cut=math.log(sure / (1.0 - sure))))
    _with_shell(encoder, old)
    encoder.blocks.load_state_dict(old.blocks.state_dict())
    return replace(model, encoder=encoder.eval())


def lora(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Only updates of rank `options.rank` (default 8) learn; they are merged afterwards."""
    model = cut_student(recipe, base, texts)
    encoder = add_lora(model.encoder, int(recipe.options.get("rank", 8)))
    return replace(model, encoder=encoder)


def prompt(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Only `options.length` vectors (default 4) before the input learn; the graph holds them."""
    model = cut_student(recipe, base, texts)
    length = int(recipe.options.get("length", 4))
    old = model.encoder
    encoder = Encoder(replace(old.spec, prompt=length))
    _with_shell(encoder, old)
    encoder.blocks.load_state_dict(old.blocks.state_dict())
    encoder.requires_grad_(requires_grad=False)
    with torch.no_grad():
        # Words keep their places: the prompt takes places of its own, behind them.
        encoder.places.weight[: old.spec.positions] = old.places.weight
        encoder.places.weight[old.spec.positions :] = 0.0
        torch.manual_seed(0)
        picks = torch.randint(4, old.spec.vocabulary, (length,))
        encoder.prompt = nn.Parameter(old.words.weight[picks].clone())
    return replace(model, encoder=encoder.eval())


def prune_heads(encoder: Encoder, keep: int) -> Encoder:
    """Keeps the `keep` heads of each block whose output weighs most.

    Raises:
        ConfigError: If there are not so many.
    """
    spec = encoder.spec
    if not 1 <= keep <= min(spec.heads):
        raise ConfigError(f"student.heads must lie in [1, {min(spec.heads)}], not {keep}")
    made = Encoder(replace(spec, heads=(keep,) * len(spec.heads)))
    _with_shell(made, encoder)
    for new, old in zip(_blocks(made), _blocks(encoder), strict=True):
        _copy_but(new, old, "attention")
        columns = _head_columns(old.attention, keep)
        _slice_attention(new.attention, old.attention, columns)
    return made.eval()


def prune_ffn(encoder: Encoder, keep: int) -> Encoder:
    """Keeps the `keep` neurons of each feed-forward whose in and out weights are largest.

    Raises:
        ConfigError: If there are not so many.
    """
    spec = encoder.spec
    if not 1 <= keep <= min(spec.ffn):
        raise ConfigError(f"student.ffn must lie in [1, {min(spec.ffn)}], not {keep}")
    made = Encoder(replace(spec, ffn=(keep,) * len(spec.ffn)))
    _with_shell(made, encoder)
    for new, old in zip(_blocks(made), _blocks(encoder), strict=True):
        _copy_but(new, old, "ffn")
        wide, thin = _dense(old), _dense(new)
        weight = wide.up.weight.norm(dim=1) * wide.down.weight.norm(dim=0)
        rows = weight.topk(keep).indices.sort().values
        _load(thin.up, wide.up.weight[rows], wide.up.bias[rows])
        _load(thin.down, wide.down.weight[:, rows], wide.down.bias)
    return made.eval()


def narrow(encoder: Encoder, hidden: int) -> Encoder:
    """A thinner residual stream: the main directions of the word embedding, turned back at the end.

    Raises:
        ConfigError: If it would not be thinner.
    """
    spec = encoder.spec
    if not 8 <= hidden < spec.hidden:
        raise ConfigError(f"student.hidden must lie in [8, {spec.hidden}), not {hidden}")
    words = encoder.words.weight.detach()
    _, _, directions = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    basis = directions[:hidden].T
    made = Encoder(replace(spec, hidden=hidden))
    state = {name: _project(name, value, basis) for name, value in encoder.state_dict().items()}
    state["project.weight"] = basis
    made.load_state_dict(state)
    return made.eval()


def _project(name: str, value: Tensor, basis: Tensor) -> Tensor:
    """One tensor of the wide encoder, seen in the thin basis."""
    if "norm" in name:
        return value.mean().expand(basis.shape[1]).clone() if "weight" in name else value @ basis
    if name in {"words.weight", "places.weight"}:
        return value @ basis
    inner = name.endswith(("qkv.weight", "up.weight"))
    if inner:
        return value @ basis
    if name.endswith(("out.weight", "down.weight")):
        return basis.T @ value
    return basis.T @ value if name.endswith(("out.bias", "down.bias")) else value


def _head_columns(attention: Attention, keep: int) -> Tensor:
    size = attention.head_size
    weight = attention.out.weight.view(-1, attention.heads, size)
    best = weight.norm(dim=(0, 2)).topk(keep).indices.sort().values
    return (best[:, None] * size + torch.arange(size)).flatten()


def _slice_attention(new: Attention, old: Attention, columns: Tensor) -> None:
    width = old.heads * old.head_size
    rows = torch.cat([columns + part * width for part in range(3)])
    _load(new.qkv, old.qkv.weight[rows], old.qkv.bias[rows])
    _load(new.out, old.out.weight[:, columns], old.out.bias)
    new.norm.load_state_dict(old.norm.state_dict())


def _copy_experts(new: nn.Module, old: nn.Module) -> None:
    if not isinstance(new, Experts) or not isinstance(old, FeedForward):
        raise ConfigError("experts grow from an ordinary feed-forward only")
    for expert in new.experts:
        expert.load_state_dict(old.state_dict())
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(1e-3 * parameter.std() * torch.randn_like(parameter))
    nn.init.normal_(new.gate.weight, std=0.02)
    nn.init.zeros_(new.gate.bias)


def _with_shell(made: Encoder, old: Encoder) -> Encoder:
    """Copies everything outside the blocks that has the same shape."""
    state = made.state_dict()
    for name, value in old.state_dict().items():
        if not name.startswith("blocks.") and name in state and state[name].shape == value.shape:
            state[name] = value.clone()
    made.load_state_dict(state)
    return made


def _copy_but(new: Block, old: Block, part: str) -> None:
    state = new.state_dict()
    for name, value in old.state_dict().items():
        if not name.startswith(f"{part}."):
            state[name] = value.clone()
    new.load_state_dict(state)


def _dense(block: Block) -> FeedForward:
    if not isinstance(block.ffn, FeedForward):
        raise ConfigError("only an ordinary feed-forward can be pruned, not a mixture")
    return block.ffn


def _blocks(encoder: Encoder) -> list[Block]:
    return [block for block in encoder.blocks if isinstance(block, Block)]


def _load(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
