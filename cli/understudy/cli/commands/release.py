"""`understudy release`: what is offered to the fleet, and back again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.options import CLOUD_YAML, CloudConfigFile
from understudy.cli.output import show_table
from understudy.cli.passphrase import PASSPHRASE, passphrase
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.cloud.releases import Publisher, Release
    from understudy.cloud.rollout import Rollout

app = typer.Typer(no_args_is_help=True, help="Offer signed students to the fleet, and roll back.")

Releases = Annotated[
    Path, typer.Option("--releases", help="Folder of the release repository.", show_default=True)
]
Keys = Annotated[
    Path, typer.Option("--keys", help=f"Folder of the publisher's keys; ${PASSPHRASE} opens them.")
]
Task = Annotated[str, typer.Option(help="Name of the task; needed when there are several.")]
Channel = Annotated[str, typer.Option(help="Name of the channel.")]
Note = Annotated[str, typer.Option(help="Why, for people.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]
DEFAULT_RELEASES, DEFAULT_KEYS = Path("releases"), Path("publisher-keys")


@app.command(epilog="Example: UNDERSTUDY_PASSPHRASE=... understudy release init")
def init(releases: Releases = DEFAULT_RELEASES, keys: Keys = DEFAULT_KEYS) -> None:
    """Makes a release repository and the publisher's keys."""
    from understudy.cloud.releases import ReleaseRepository

    ReleaseRepository.create(releases, keys, passphrase())
    typer.echo(f"repository: {releases}\npublisher's keys: {keys} (keep them off the server)")


@app.command(epilog="Example: understudy release publish out/bundle --channel canary")
def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    channel: Channel = "stable",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
    note: Note = "",
) -> None:
    """Signs a bundle and offers it to a channel."""
    _say("offered", _publisher(releases, keys).publish(bundle, channel, note=note))


@app.command("list", epilog="Example: understudy release list --json")
def list_releases(releases: Releases = DEFAULT_RELEASES, as_json: AsJson = False) -> None:
    """Lists every release on offer, newest last."""
    from understudy.cloud.releases import ReleaseRepository

    rows = [
        (r.sequence, r.channel, r.task, r.bundle, r.offer.kind.value, _when(r), r.offer.note)
        for r in ReleaseRepository.open(releases).store().releases()
    ]
    columns = ("sequence", "channel", "task", "bundle", "kind", "published", "note")
    if not as_json:
        rows = [(s, c, t, b[:12], k, w, n) for s, c, t, b, k, w, n in rows]
    show_table(columns, rows, as_json=as_json)


@app.command(epilog="Example: understudy release promote 3f2a... --channel stable")
def promote(
    bundle: Annotated[str, typer.Argument(help="Id of the bundle, or its beginning.")],
    channel: Channel = "stable",
    task: Task = "",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
    note: Note = "",
) -> None:
    """Offers a bundle of one channel to another."""
    found = _named(releases, bundle, task)
    publisher = _publisher(releases, keys)
    _say("promoted", publisher.promote(found.task, found.bundle, channel, note=note))


@app.command(epilog="Example: understudy release rollback --channel stable --note 'too slow'")
def rollback(
    channel: Channel = "stable",
    task: Task = "",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
    note: Note = "",
) -> None:
    """Offers the previous bundle again, as a newer release, and withdraws the last."""
    task = _only_task(_offers(releases), task)
    _say("rolled back to", _publisher(releases, keys).rollback(task, channel, note=note))


def _publisher(releases: Path, keys: Path) -> Publisher:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(releases).publisher(keys, passphrase())


def _offers(releases: Path) -> list[Release]:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(releases).store().releases()


def _named(releases: Path, prefix: str, task: str) -> Release:
    """The newest offer of the one bundle that begins so; a bundle has one task."""
    found = {r.bundle: r for r in _offers(releases) if r.bundle.startswith(prefix)}
    if task:
        found = {bundle: r for bundle, r in found.items() if r.task == task}
    if len(found) != 1:
        raise ConfigError(f"'{prefix}' names {len(found)} bundles; see `understudy release list`")
    return next(iter(found.values()))


def _only_task(offers: list[Release], task: str) -> str:
    """The task that was named, or the only one there is."""
    names = sorted({release.task for release in offers})
    if not names:
        raise ConfigError("nothing is on offer yet; `understudy release publish` comes first")
    if not task and len(names) == 1:
        return names[0]
    if task not in names:
        raise ConfigError(f"name one of the tasks on offer with --task: {', '.join(names)}")
    return task


def _say(what: str, release: Release) -> None:
    typer.echo(f"{what}: {release.bundle[:12]} on {release.channel}, release {release.sequence}")


def _when(release: Release) -> str:
    moment = datetime.fromtimestamp(release.offer.published_unix_s, UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


@app.command(epilog="Example: understudy release withdraw 3f2a")
def withdraw(
    bundle: Annotated[str, typer.Argument(help="Id of the bundle, or its beginning.")],
    task: Task = "",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
) -> None:
    """Takes every offer of a bundle back; nodes that have it keep it until the next release."""
    found = _named(releases, bundle, task)
    _publisher(releases, keys).withdraw(found.task, found.bundle)
    typer.echo(f"withdrawn: {found.bundle[:12]}; no node can install it any more")


@app.command(epilog="Example: understudy release verify 3f2a --releases releases")
def verify(
    bundle: Annotated[str, typer.Argument(help="Id of the bundle, or its beginning.")],
    releases: Releases = DEFAULT_RELEASES,
) -> None:
    """Explains in words why a bundle may be believed, from the root of trust to its last byte."""
    from understudy.cloud.releases.explain import explain

    findings = explain(releases, bundle, time.time())
    for finding in findings:
        typer.echo(finding.sentence, err=not finding.holds)
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: understudy release pause -c cloud.yaml --channel stable")
def pause(
    config: CloudConfigFile = CLOUD_YAML, channel: Channel = "stable", task: Task = ""
) -> None:
    """Stops offering the channel's newest release; nodes that have it keep it."""
    with rollout_of(config) as (rollout, offers):
        state = rollout.pause(_only_task(offers, task), channel, time.time())
    typer.echo(f"paused: {state.bundle[:12]} on {channel}")


@app.command(epilog="Example: understudy release resume -c cloud.yaml --channel stable")
def resume(
    config: CloudConfigFile = CLOUD_YAML, channel: Channel = "stable", task: Task = ""
) -> None:
    """Goes on with a paused rollout."""
    with rollout_of(config) as (rollout, offers):
        state = rollout.resume(_only_task(offers, task), channel, time.time())
    typer.echo(f"resumed: {state.bundle[:12]} on {channel}")


@app.command(epilog="Example: understudy release pin shop-berlin 3f2a -c cloud.yaml")
def pin(
    node: Annotated[str, typer.Argument(help="Id of the node.")],
    bundle: Annotated[str, typer.Argument(help="Id of a bundle on offer; none: as it is.")] = "",
    config: CloudConfigFile = CLOUD_YAML,
    task: Task = "",
    release: Annotated[bool, typer.Option("--unpin", help="Follow the channel again.")] = False,
) -> None:
    """Keeps a node at one bundle, or lets it follow its channel again."""
    with rollout_of(config) as (rollout, offers):
        task = _only_task(offers, task)
        if release:
            rollout.unpin(node, task)
        else:
            rollout.pin(node, task, _on_offer(offers, task, bundle))
    typer.echo(f"{node} {'follows its channel' if release else 'is pinned'}")


def _on_offer(offers: list[Release], task: str, prefix: str) -> str:
    """The id of the one bundle that begins so; empty when none is named."""
    found = sorted({r.bundle for r in offers if r.task == task and r.bundle.startswith(prefix)})
    if prefix and len(found) != 1:
        raise ConfigError(f"'{prefix}' names {len(found)} bundles; see `understudy release list`")
    return found[0] if prefix else ""


@contextmanager
def rollout_of(path: Path) -> Iterator[tuple[Rollout, list[Release]]]:
    """The rollout of a cloud's configuration, and what is on offer there."""
    from understudy.cloud.config import load_config
    from understudy.cloud.parts import open_rollout
    from understudy.cloud.releases import ReleaseRepository

    config = load_config(path)
    store = ReleaseRepository.open(config.path(config.releases_dir)).store()
    rollout = open_rollout(config, store)
    try:
        yield rollout, store.releases()
    finally:
        rollout.close()
