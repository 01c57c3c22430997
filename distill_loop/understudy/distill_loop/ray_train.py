"""The training function on workers of a Ray cluster: several GPUs, or several CPU machines.

Ray Train starts the workers, joins them into one process group, replaces the lost, and keeps what
the first of them made. What comes back is what training in this process gives.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.cloud.ray_start import RayOptions, prepare_environment, start_ray
from understudy.distill_loop.checkpoint import load_model, save_model
from understudy.distill_loop.distil import Lesson, Progress, Trained, distil
from understudy.distill_loop.inputs import WhereRecipe
from understudy.distill_loop.recipe import Recipe
from understudy.distill_loop.student import StudentModel
from understudy.distill_loop.team import Workers
from understudy.edge.bundle import Head
from understudy.types.errors import ConfigError, DataError

_STORE_MB = 256


def distil_on_ray(
    model: StudentModel,
    lesson: Lesson,
    head: Head,
    recipe: Recipe,
    *,
    base: StudentModel | None = None,
    progress: Progress | None = None,
    storage: Path,
) -> Trained:
    """As `distil`, by `where.workers` workers that share each batch.

    Args:
        model: As in `distil`.
        lesson: As in `distil`.
        head: As in `distil`.
        recipe: As in `distil`; `where` says how many workers, on what, and at which cluster.
        base: As in `distil`.
        progress: Called at the beginning and at the end: the steps are taken elsewhere.
        storage: Folder for what the workers hand back, unless `where.storage` names one.

    Raises:
        ConfigError: If Ray is missing, cannot be joined, or has not the resources.
        DataError: If the training failed on the workers.
    """
    where = recipe.where
    if progress is not None:
        progress(0, 1)
    with _cluster(where):
        work = {"model": model, "lesson": lesson, "head": head, "recipe": recipe, "base": base}
        trained = _fit(work, where, where.storage or str(storage.resolve()))
    if progress is not None:
        progress(1, 1)
    return trained


def _fit(work: dict[str, Any], where: WhereRecipe, storage: str) -> Trained:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    _require_room(where)
    trainer = TorchTrainer(
        learn,
        train_loop_config=work,
        torch_config=TorchConfig(backend="nccl" if where.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=where.workers,
            use_gpu=where.gpu,
            resources_per_worker={"CPU": where.cpus, **({"GPU": 1} if where.gpu else {})},
        ),
        run_config=RunConfig(
            storage_path=storage, failure_config=FailureConfig(max_failures=where.retries)
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        # Ray wraps whatever a worker raised in types of its own.
        raise DataError(f"the training failed on the workers: {error}") from error
    kept, told = result.checkpoint, result.metrics
    if kept is None or told is None:
        raise DataError("the workers ended without a student: look at Ray's logs")
    with kept.as_directory() as folder:
        learned = load_model(Path(folder))
    return Trained(learned, told["steps"], told["losses"], told["gradient_share"])


def learn(work: dict[str, Any]) -> None:
    """One worker's part: the same training function as in a process of its own."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    recipe: Recipe = work["recipe"]
    # The recipe's threads are those of one machine; a worker has the cores reserved for it.
    threads = max(int(recipe.where.cpus), 1)
    recipe = replace(recipe, distil=replace(recipe.distil, threads=threads))
    trained = distil(
        work["model"],
        work["lesson"],
        work["head"],
        recipe,
        base=work["base"],
        team=Workers(rank, size, get_device()),
    )
    with tempfile.TemporaryDirectory() as folder:
        kept = None
        if rank == 0:
            save_model(trained.model, Path(folder))
            kept = ray.train.Checkpoint.from_directory(folder)
        told = {
            "steps": trained.steps,
            "losses": trained.losses,
            "gradient_share": trained.gradient_share,
        }
        ray.train.report(told, checkpoint=kept)


def _require_room(where: WhereRecipe) -> None:
    """Ray would wait for ever for resources that no machine of the cluster has."""
    import ray

    there = ray.cluster_resources()
    cpus, gpus = where.workers * where.cpus, where.workers * where.gpu
    if there.get("CPU", 0.0) < cpus or there.get("GPU", 0.0) < gpus:
        raise ConfigError(
            f"where: {where.workers} workers need {cpus:g} CPUs and {gpus} GPUs; the cluster has "
            f"{there.get('CPU', 0.0):g} and {there.get('GPU', 0.0):g}"
        )


@contextmanager
def _cluster(where: WhereRecipe) -> Iterator[None]:
    """Joins the cluster, or starts a small one and ends it; one that is joined already stays."""
    # Nobody waits for a night: its workers come after what else the machine does, as Ray has it.
    os.environ.setdefault("RAY_worker_niceness", "15")
    prepare_environment()
    try:
        import ray
        import ray.train
    except ImportError as error:
        raise ConfigError("Ray Train is missing: pip install 'understudy[train]'") from error
    if ray.is_initialized():
        yield
        return
    cpus = int(where.workers * where.cpus) + 1
    options = RayOptions(address=where.address, cpus=cpus, object_store_mb=_STORE_MB)
    start_ray(options, setting="where")
    try:
        yield
    finally:
        ray.shutdown()
