"""The recipe's sections about the student: what it is, what it learns by, how long, how small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.types.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRecipe:
    """What the student is built from.

    Attributes:
        use: Component name: `slim`, `pruned`, `gradual`, `shared`, `moe`, `mod`, `early_exit`,
            `lora`, `prompt`, `static`, or the name of a plug-in.
        base: `minilm`, or a folder with `config.json`, `model.safetensors`, `tokenizer.json`.
        keep_layers: Layers of the base that the student keeps, from 0.
        hidden: Width of the student's layers; 0 keeps the base's.
        heads: Attention heads a layer keeps; 0 keeps all.
        ffn: Feed-forward width a layer keeps; 0 keeps all.
        max_tokens: Longest input in tokens.
        vocabulary: Word pieces kept; 0 keeps all.
        options: Further numbers of the component, by name.
    """

    use: str = "slim"
    base: str = "minilm"
    keep_layers: tuple[int, ...] = (0, 5)
    hidden: int = 0
    heads: int = 0
    ffn: int = 0
    max_tokens: int = 64
    vocabulary: int = 15_000
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keep_layers or list(self.keep_layers) != sorted(set(self.keep_layers)):
            raise InvalidValueError("keep_layers must name layers once each, rising, as [0, 5]")
        if not 8 <= self.max_tokens <= 512:
            raise InvalidValueError(f"max_tokens must lie in [8, 512], not {self.max_tokens}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveRecipe:
    """Weights of the terms a student learns by; 0 leaves a term out.

    Attributes:
        emb: Cosine to the base's sentence vector.
        kd: Soft labels of the teacher, Kullback-Leibler times temperature squared.
        temperature: Softens both distributions for `kd`.
        ce: Cross-entropy with the label.
        smoothing: Label smoothing of `ce`.
        rkd: Match of the batch's pairwise cosines.
        hid: Match of the pooled hidden states of mapped layers.
        rel: Match of the last layer's query-query and value-value relations.
        anchor: Stay with the champion where it was right.
        anchor_alpha: Share of the anchor on every row.
        anchor_beta: Further share on rows the champion had right.
        unsure: Be unsure where the student is wrong.
        rationale: Cosine to the vector of the teacher's rationale, from a projection of its own.
        mixup: Soft labels of pairs of rows, their sentence vectors mixed as their distributions.
        mixup_alpha: Both parameters of the Beta distribution that shares are drawn from.
        exit: What an early exit says and when it may; counts only where the student has one.
        balance: Scale the terms so that none drowns the others' gradients.
        cap: Highest confidence believed of the teacher.
    """

    emb: float = 1.0
    kd: float = 0.9
    temperature: float = 2.0
    ce: float = 0.1
    smoothing: float = 0.05
    rkd: float = 0.5
    hid: float = 0.0
    rel: float = 0.0
    anchor: float = 0.0
    anchor_alpha: float = 1.0
    anchor_beta: float = 5.0
    unsure: float = 0.0
    rationale: float = 0.0
    mixup: float = 0.0
    mixup_alpha: float = 0.4
    exit: float = 1.0
    balance: bool = False
    cap: float = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilRecipe:
    """How long and how fast the encoder learns.

    Attributes:
        epochs: Passes over the training rows; 0 leaves the encoder as built.
        batch: Rows a step.
        max_steps: Upper bound of steps.
        min_steps: Small data is repeated until so many steps are done.
        body_rate: Learning rate of the layers.
        head_rate: Learning rate of the head.
        embedding_rate: Learning rate of the embeddings; 0 freezes them.
        warm_up: Share of the steps with a rising rate.
        weight_decay: AdamW's.
        average: Decay of the weight average that is kept; 0 keeps the last weights.
        threads: Threads of torch; part of the recipe because sums depend on it.
        warm_start: Start from the champion's encoder when it has the same shape.
        augment: Further variants of each text, told apart by noise and re-mixing.
        quantised: Share of the steps, the last ones, taken with weights and activations rounded as
            the INT8 graph rounds them; 0 for none.
    """

    epochs: int = 4
    batch: int = 32
    max_steps: int = 2000
    min_steps: int = 0
    body_rate: float = 3e-4
    head_rate: float = 1e-2
    embedding_rate: float = 0.0
    warm_up: float = 0.06
    weight_decay: float = 0.01
    average: float = 0.0
    threads: int = 2
    warm_start: bool = True
    augment: int = 0
    quantised: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 2 or self.threads < 1 or self.max_steps < 1:
            raise InvalidValueError("epochs >= 0, batch >= 2, threads >= 1 and max_steps >= 1")
        if not 0.0 <= self.quantised <= 1.0:
            raise InvalidValueError(f"quantised must lie in [0, 1], not {self.quantised:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressRecipe:
    """How the graph becomes small.

    Attributes:
        use: `int8_dynamic`, `int8_static`, `int4`, `none`, or `auto`: INT8 dynamic unless another
            is measured to be smaller, faster and as true.
        cpu: `portable` keeps sums from saturating on CPUs without VNNI; `vnni` uses all 8 bits.
        variants: CPU classes, such as `vnni`, for which the bundle carries a second graph with all
            8 bits, if it measures truer on a machine that has such a CPU.
    """

    use: str = "int8_dynamic"
    cpu: str = "portable"
    variants: tuple[str, ...] = ()
