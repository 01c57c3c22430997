"""One night from the command line: where the log, the champion, the keys and the fleet are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.night_inputs import night_teacher, opened_log, read_sources, seed_examples
from understudy.cli.passphrase import passphrase
from understudy.cli.rows import read_rows
from understudy.types.bundle import MANIFEST
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig
    from understudy.cloud.releases import ReleaseRepository, ReleaseStore
    from understudy.cloud.state import SharedState
    from understudy.distill_loop.night import Sources
    from understudy.distill_loop.plan import NightPlan
    from understudy.distill_loop.publish import Publish
    from understudy.distill_loop.recipe import Recipe
    from understudy.distill_loop.refresh import RefreshResult
    from understudy.distill_loop.run import NightResult
    from understudy.distill_loop.triggers import Call
    from understudy.types.records import LoggedRow

FIRST = "day-0"
"""Name of the night that makes the first student."""


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
        folder: Folder that paths of the recipe are relative to.
        where: Overrules the recipe's `where.use`; empty for the recipe's.
    """

    recipe: str
    cloud: Path
    workspace: Path
    keys: Path | None
    seed: Path | None
    channel: str = "stable"
    history: Path | None = None
    folder: Path = Path()
    where: str = ""


def places_beside(
    recipe: str,
    *,
    cloud: Path | None,
    workspace: Path | None,
    keys: Path | None = None,
    seed: Path | None = None,
    channel: str = "stable",
    ship: bool = False,
    history: Path | None = None,
    where: str = "",
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
        workspace=workspace or _workspace(recipe, load_config(cloud)),
        keys=(keys or folder / "publisher-keys") if ship else None,
        seed=seed or (beside if beside.exists() else None),
        channel=channel,
        history=history,
        folder=folder,
        where=where,
    )


def _workspace(recipe: str, cloud: CloudConfig) -> Path:
    """The folder of the recipe's task: nights of one name of two tasks must not meet."""
    from understudy.distill_loop.recipe import load_recipe

    shared = cloud.path("nights")
    if len(cloud.tasks) > 1 and (shared / "nights").is_dir():
        raise ConfigError(
            f"{shared} is from when this cloud had one task; "
            f"move what is in it to {shared}/TASK, TASK being that task's name"
        )
    return cloud.path_of(load_recipe(recipe, os.environ).task, "nights")


def run_nightly(
    places: NightPlaces, name: str, progress: Callable[[str, float], None]
) -> NightResult:
    """Runs the night of that name; the first one ever makes the first student.

    Raises:
        ConfigError: If a file or key is missing.
        DataError: If there is nothing to learn from.
    """
    from understudy.distill_loop.run import run_night
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = read_recipe(places), _cloud(places)
    publish = _publish(places, cloud)
    with opened_log(cloud) as log, night_teacher(recipe, cloud) as teacher:
        sources = _sources(places, recipe, cloud, log.scan())
        return run_night(
            recipe,
            Workspace(places.workspace),
            sources,
            name=name if sources.champion else FIRST,
            teacher=teacher,
            publish=publish,
            progress=progress,
        )


def refresh_nightly(places: NightPlaces) -> RefreshResult:
    """Fits head, prototypes and calibration anew on the champion's encoder, now.

    Raises:
        ConfigError: If a file or key is missing.
        DataError: If there is no champion, or nothing to learn from.
    """
    from understudy.distill_loop.refresh import refresh_head
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = read_recipe(places), _cloud(places)
    publish = _publish(places, cloud)
    with opened_log(cloud) as log:
        sources = _sources(places, recipe, cloud, log.scan())
        return refresh_head(recipe, Workspace(places.workspace), sources, publish=publish)


def due_nightly(places: NightPlaces, now_unix_s: float) -> Call:
    """What the recipe's `schedule` asks for now: a night, a refresh or nothing, and why.

    Raises:
        ConfigError: If a file is missing.
    """
    from understudy.distill_loop.triggers import loop_state, what_is_due
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = read_recipe(places), _cloud(places)
    champion = find_champion(recipe.task, places, cloud)
    with opened_log(cloud) as log:
        mine = (row for row in log.scan() if row.record.task == recipe.task)
        answered = [row.logged_unix_s for row in mine if row.teacher is not None]
    clock = Workspace(places.workspace).clock()
    drift = champion is not None and _night_is_asked_for(cloud, champion.name)
    return what_is_due(loop_state(answered, clock, now_unix_s, drift=drift), recipe.schedule)


def due_name(places: NightPlaces, now: datetime) -> str:
    """Name of a night that is due: one that was begun today and killed, else a new one."""
    from understudy.distill_loop.workspace import Workspace

    workspace = Workspace(places.workspace)
    begun = workspace.unfinished(now.timestamp() - 86_400.0)
    today = now.strftime("%Y-%m-%d")
    return begun or (today if workspace.night(today) is None else now.strftime("%Y-%m-%dT%H%M"))


def plan_nightly(places: NightPlaces) -> NightPlan:
    """What the next night will cost.

    Raises:
        ConfigError: If a file is missing.
        DataError: If there is nothing to learn from.
    """
    from understudy.distill_loop.plan import plan_night
    from understudy.distill_loop.workspace import Workspace

    recipe, cloud = read_recipe(places), _cloud(places)
    with opened_log(cloud) as log:
        sources = _sources(places, recipe, cloud, log.scan())
        return plan_night(recipe, Workspace(places.workspace), sources)


def keep_report(places: NightPlaces, name: str) -> Path:
    """Writes the page of a night that has ended where the console looks for it."""
    from understudy.distill_loop.report import write_report
    from understudy.distill_loop.workspace import Workspace

    cloud = _cloud(places)
    folder = cloud.path_of(read_recipe(places).task, cloud.operator.reports_dir)
    page = folder / f"{name}.html"
    return write_report(Workspace(places.workspace), name, page)


def _sources(
    places: NightPlaces, recipe: Recipe, cloud: CloudConfig, log: Iterable[LoggedRow]
) -> Sources:
    named = read_sources(recipe, places.folder)
    history = read_rows(places.history) if places.history else ()
    return replace(
        named,
        log=log,
        seed=seed_examples(places.seed),
        unlabelled=(*named.unlabelled, *(row.text for row in history)),
        champion=find_champion(recipe.task, places, cloud),
        changes=_changes(cloud, recipe.task),
    )


def _changes(cloud: CloudConfig, task: str) -> dict[str, int]:
    """Where in the log the live watch last heard that traffic had changed, by slice."""
    from understudy.cloud.watch import last_changes

    with _shared_state(cloud) as state:
        return {} if state is None else last_changes(state, task)


def _night_is_asked_for(cloud: CloudConfig, bundle: str) -> bool:
    """True if the live watch over that bundle has raised its alarm."""
    from understudy.cloud.watch import SharedAdvice

    with _shared_state(cloud) as state:
        if state is None:
            return False
        advice = SharedAdvice(state)
        advice.refresh()
        standing = advice.standings.get(bundle)
        return standing is not None and standing.night


@contextmanager
def _shared_state(cloud: CloudConfig) -> Iterator[SharedState | None]:
    """What the gateway and the night share; None where no gateway has ever run."""
    from understudy.cloud.config import LogBackend
    from understudy.cloud.parts import open_state

    if cloud.log.backend is LogBackend.SQLITE and not cloud.path("state.db").exists():
        yield None
        return
    state = open_state(cloud)
    try:
        yield state
    finally:
        state.close()


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


def read_recipe(places: NightPlaces) -> Recipe:
    """The recipe, learning where the command line says.

    Raises:
        ConfigError: If there is no such recipe, or it does not fit.
    """
    from understudy.distill_loop.inputs import Where
    from understudy.distill_loop.recipe import load_recipe

    recipe = load_recipe(places.recipe, os.environ)
    if not places.where:
        return recipe
    known = [where.value for where in Where]
    if places.where not in known:
        raise ConfigError(f"--where is '{places.where}'; known are: {', '.join(known)}")
    return replace(recipe, where=replace(recipe.where, use=Where(places.where)))


def _cloud(places: NightPlaces) -> CloudConfig:
    from understudy.cloud.config import load_config

    return load_config(places.cloud)


def _repository(cloud: CloudConfig) -> ReleaseRepository:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(cloud.path(cloud.releases_dir))


def _publish(places: NightPlaces, cloud: CloudConfig) -> Publish | None:
    from understudy.distill_loop.publish import to_channel

    if places.keys is None:
        return None
    repository = _repository(cloud)
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
