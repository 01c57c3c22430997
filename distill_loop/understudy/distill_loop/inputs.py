"""Two sections of a recipe: what the night reads beside the log, and where its encoder learns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from understudy.types.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesRecipe:
    """What a night reads beside log, seed and replay buffer; paths are relative to the recipe.

    Attributes:
        files: Rows labelled by a person, that always train.
        gold: Rows labelled by a person, that only judge.
        pinned: Rows that must not break.
        foreign: Texts outside every class, that only judge.
        unlabelled: Texts like those of the traffic; they teach the encoder only.
        plugins: Names in the entry point group `understudy.source`, whose rows join the log's.
    """

    files: tuple[str, ...] = ()
    gold: str = ""
    pinned: str = ""
    foreign: str = ""
    unlabelled: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


class Where(StrEnum):
    """Who runs the training function."""

    LOCAL = "local"
    RAY_TRAIN = "ray-train"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereRecipe:
    """Where the encoder learns; every other stage runs in the night's own process.

    Attributes:
        use: `local`, this process; or `ray-train`, workers of a Ray cluster that share each batch.
        workers: Workers of `ray-train`; with `gpu` one GPU each.
        gpu: Train on GPUs, with NCCL; else on CPUs, with gloo.
        cpus: CPU cores reserved for a worker.
        address: Ray cluster to join, such as `auto`; empty starts a small one for the night.
        storage: Folder or URL that every machine of the cluster reaches; empty for the workspace,
            which will do while all workers run on one machine.
        retries: How often a lost worker may be replaced.
    """

    use: Where = Where.LOCAL
    workers: int = 2
    gpu: bool = False
    cpus: float = 1.0
    address: str = ""
    storage: str = ""
    retries: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus <= 0.0 or self.retries < 0:
            raise InvalidValueError("where: workers >= 1, cpus > 0 and retries >= 0")
