"""One night from the command line: where the log, the champion, the keys and the fleet are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.passphrase import passphrase
from understudy.cli.rows import Row, read_rows, require_labels
from understudy.types.bundle import MANIFEST
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig
    from understudy.cloud.releases import ReleaseRepository, ReleaseStore
    from understudy.distill_loop.plan import NightPlan
    from understudy.distill_loop.publish import Publish
    from understudy.distill_loop.recipe import Recipe
    from understudy.distill_loop.rows import Example
    from understudy.distill_loop.run import NightResult


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPlaces:
    """Where a night finds what it needs.

    Attributes:
        recipe: Recipe file, or the name of a preset.
        cloud: The cloud's YAML file: log, releases and teacher.
        workspace: Folder the night keeps its work in.
        keys: Folder of the publisher's keys; None to make a student and ship nothing.
        seed: Labelled rows the first student starts from, and that always train; None for none.
        channel: Channel to offer the new student to.
        history: Rows whose texts, not labels, teach the first student's encoder; None for none.
    """

    recipe: str
    cloud: Path
    workspace: Path
    keys: Path | None
    seed: Path | None
    channel: str = "stable"
    history: Path | None = None


def places_beside(
    recipe: str,
    *,
    cloud: Path | None,
    workspace: Path | None,
    keys: Path | None,
    seed: Path | None,
    channel: str,
    ship: bool,
    history: Path | None = None,
) -> NightPlaces:
    """Fills in what was not said: files beside the recipe, the workspace in the cloud's state."""
    from understudy.cloud.config import load_config

    folder = Path(recipe).parent if Path(recipe).exists() else Path()
    cloud = cloud or folder / "cloud.yaml"
    if not cloud.exists():
        raise ConfigError(f"{cloud}: there is no such file; name the cloud's YAML with --cloud")
    beside = folder / "seed.jsonl"
    return NightPlaces(
        recipe=recipe,
        cloud=cloud,
        workspace=workspace or load_config(cloud).path("nights"),
        keys=(keys or folder / "publisher-keys") if ship else None,
        seed=seed or (beside if beside.exists() else None),
        channel=channel,
        history=history,
    )


def run_nightly(
    places: NightPlaces, name: str, progress: Callable[[str, float], None]
) -> NightResult:
    """Runs the night of that name; the first one ever makes the first student.

    Raises:
        ConfigError: If a file or key is missing.
        DataError: If there is nothing to learn from.
    """
    from understudy.cloud.parts import open_log
    from understudy.distill_loop.night import Sources
    from understudy.distill_loop.run import first_student, run_night
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = _recipe(places), _cloud(places)
    repository = _repository(cloud) if places.keys else None
    workspace = Workspace(places.workspace)
    seed = seed_examples(places.seed)
    publish = _publish(places, repository)
    champion = find_champion(recipe.task, places, cloud)
    if champion is None:
        texts = [row.text for row in read_rows(places.history)] if places.history else []
        first = first_student(recipe, workspace, seed, unlabelled=texts, progress=progress)
        if publish is not None:
            publish(first.directory, "first student")
        return first
    log = open_log(cloud)
    try:
        sources = Sources(log=log.scan(), seed=seed, champion=champion)
        return run_night(recipe, workspace, sources, name=name, publish=publish, progress=progress)
    finally:
        log.close()


def plan_nightly(places: NightPlaces) -> NightPlan:
    """What the next night will cost.

    Raises:
        ConfigError: If a file is missing.
        DataError: If there is nothing to learn from.
    """
    from understudy.cloud.parts import open_log
    from understudy.distill_loop.night import Sources
    from understudy.distill_loop.plan import plan_night
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = _recipe(places), _cloud(places)
    champion = find_champion(recipe.task, places, cloud)
    log = open_log(cloud)
    try:
        sources = Sources(log=log.scan(), seed=seed_examples(places.seed), champion=champion)
        return plan_night(recipe, Workspace(places.workspace), sources)
    finally:
        log.close()


def find_champion(task: str, places: NightPlaces, cloud: CloudConfig) -> Path | None:
    """The folder of the student the fleet has: from the workspace, else from the releases."""
    folder = cloud.path(cloud.releases_dir)
    if not (folder / "metadata").is_dir():
        return None
    repository = _repository(cloud)
    current = repository.store().current(task, places.channel)
    if current is None:
        return None
    made_here = places.workspace / "bundles" / current.bundle
    if (made_here / MANIFEST).exists():
        return made_here
    return _fetch(repository, current.bundle, places.workspace / "champions" / current.bundle)


def seed_examples(path: Path | None) -> tuple[Example, ...]:
    """Labelled rows of a file as the night wants them.

    Raises:
        DataError: If the file cannot teach.
    """
    if path is None:
        return ()
    rows = read_rows(path)
    require_labels(path, rows)
    return as_examples(rows)


def as_examples(rows: tuple[Row, ...]) -> tuple[Example, ...]:
    """Rows labelled by a person."""
    from understudy.distill_loop.rows import Example, Origin

    return tuple(
        Example(id=f"seed-{row.id}", text=row.text, label=row.recorded, origin=Origin.SEED)
        for row in rows
    )


def _recipe(places: NightPlaces) -> Recipe:
    from understudy.distill_loop.recipe import load_recipe

    return load_recipe(places.recipe, os.environ)


def _cloud(places: NightPlaces) -> CloudConfig:
    from understudy.cloud.config import load_config

    return load_config(places.cloud)


def _repository(cloud: CloudConfig) -> ReleaseRepository:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(cloud.path(cloud.releases_dir))


def _publish(places: NightPlaces, repository: ReleaseRepository | None) -> Publish | None:
    from understudy.distill_loop.publish import to_channel

    if places.keys is None or repository is None:
        return None
    if not places.keys.is_dir():
        raise ConfigError(f"{places.keys}: no publisher's keys; `understudy release init` first")
    return to_channel(repository.publisher(places.keys, passphrase()), places.channel)


def _fetch(repository: ReleaseRepository, bundle: str, folder: Path) -> Path:
    """Puts a released bundle together from the repository's blobs; checked when it is read."""
    from understudy.types.bundle import decode_manifest

    if (folder / MANIFEST).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    store = repository.store()
    manifest = _blob(store, bundle)
    for name, entry in decode_manifest(manifest).files.items():
        (folder / name).write_bytes(_blob(store, entry.sha256))
    (folder / MANIFEST).write_bytes(manifest)
    return folder


def _blob(store: ReleaseStore, sha256: str) -> bytes:
    file, _ = store.open_blob(sha256)
    with file:
        return file.read()
