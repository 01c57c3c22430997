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
Task = Annotated[str, typer.Option(help="Name of the task.")]
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
    task: Task = "classify",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
    note: Note = "",
) -> None:
    """Offers a bundle of one channel to another."""
    full = _full_id(releases, bundle)
    _say("promoted", _publisher(releases, keys).promote(task, full, channel, note=note))


@app.command(epilog="Example: understudy release rollback --channel stable --note 'too slow'")
def rollback(
    channel: Channel = "stable",
    task: Task = "classify",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
    note: Note = "",
) -> None:
    """Offers the previous bundle again, as a newer release, and withdraws the last."""
    _say("rolled back to", _publisher(releases, keys).rollback(task, channel, note=note))


def _publisher(releases: Path, keys: Path) -> Publisher:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(releases).publisher(keys, passphrase())


def _full_id(releases: Path, prefix: str) -> str:
    from understudy.cloud.releases import ReleaseRepository

    known = {r.bundle for r in ReleaseRepository.open(releases).store().releases()}
    found = sorted(b for b in known if b.startswith(prefix))
    if len(found) != 1:
        raise ConfigError(f"'{prefix}' names {len(found)} bundles; see `understudy release list`")
    return found[0]


def _say(what: str, release: Release) -> None:
    typer.echo(f"{what}: {release.bundle[:12]} on {release.channel}, release {release.sequence}")


def _when(release: Release) -> str:
    moment = datetime.fromtimestamp(release.offer.published_unix_s, UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


@app.command(epilog="Example: understudy release withdraw 3f2a --task support-desk")
def withdraw(
    bundle: Annotated[str, typer.Argument(help="Id of the bundle, or its beginning.")],
    task: Task = "classify",
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
) -> None:
    """Takes every offer of a bundle back; nodes that have it keep it until the next release."""
    full = _full_id(releases, bundle)
    _publisher(releases, keys).withdraw(task, full)
    typer.echo(f"withdrawn: {full[:12]}; no node can install it any more")


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
    config: CloudConfigFile = CLOUD_YAML, channel: Channel = "stable", task: Task = "classify"
) -> None:
    """Stops offering the channel's newest release; nodes that have it keep it."""
    with rollout_of(config) as rollout:
        state = rollout.pause(task, channel, time.time())
    typer.echo(f"paused: {state.bundle[:12]} on {channel}")


@app.command(epilog="Example: understudy release resume -c cloud.yaml --channel stable")
def resume(
    config: CloudConfigFile = CLOUD_YAML, channel: Channel = "stable", task: Task = "classify"
) -> None:
    """Goes on with a paused rollout."""
    with rollout_of(config) as rollout:
        state = rollout.resume(task, channel, time.time())
    typer.echo(f"resumed: {state.bundle[:12]} on {channel}")


@app.command(epilog="Example: understudy release pin shop-berlin 3f2a -c cloud.yaml")
def pin(
    node: Annotated[str, typer.Argument(help="Id of the node.")],
    bundle: Annotated[str, typer.Argument(help="Id of a bundle on offer; none: as it is.")] = "",
    config: CloudConfigFile = CLOUD_YAML,
    task: Task = "classify",
    release: Annotated[bool, typer.Option("--unpin", help="Follow the channel again.")] = False,
) -> None:
    """Keeps a node at one bundle, or lets it follow its channel again."""
    with rollout_of(config) as rollout:
        if release:
            rollout.unpin(node, task)
        else:
            rollout.pin(node, task, bundle)
    typer.echo(f"{node} {'follows its channel' if release else 'is pinned'}")


@contextmanager
def rollout_of(path: Path) -> Iterator[Rollout]:
    """The rollout of a cloud's configuration."""
    from understudy.cloud.config import load_config
    from understudy.cloud.parts import open_rollout
    from understudy.cloud.releases import ReleaseRepository

    config = load_config(path)
    store = ReleaseRepository.open(config.path(config.releases_dir)).store()
    rollout = open_rollout(config, store)
    try:
        yield rollout
    finally:
        rollout.close()
