"""`understudy release rotate | renew | reseal`: the publisher's keys, through their lives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.commands.release import DEFAULT_KEYS, DEFAULT_RELEASES, Keys, Releases, app
from understudy.cli.passphrase import NEW_PASSPHRASE, new_passphrase, passphrase
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.cloud.releases import KeyHolder, ReleaseRepository, Rotated, Rotation

# The commands here join those of `release`: whoever imports this gets them all.
__all__ = ["app"]

_HOLDERS = "root | targets | online"


@app.command(epilog="Example: understudy release rotate root --count 3 --threshold 2")
def rotate(
    holder: Annotated[
        str, typer.Argument(help="Whose keys: root, targets, or the server's (online).")
    ],
    count: Annotated[
        int | None, typer.Option(help="Keys to make; 1, or 0 with --uri.", min=0)
    ] = None,
    threshold: Annotated[int, typer.Option(help="How many of them must sign.")] = 1,
    uri: Annotated[
        str, typer.Option(help="A key elsewhere, such as awskms:… or command:PROGRAM.")
    ] = "",
    public: Annotated[Path | None, typer.Option(help="Its public key, PEM.")] = None,
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
) -> None:
    """Replaces keys; the root before and after signs it, so that nodes follow by themselves."""
    wish = _rotation(holder, count, threshold, uri, public)
    repository = _repository(releases)
    done = repository.rotate(wish, _existing(keys), passphrase())
    _tell(wish.holder, done, repository)


@app.command(epilog="Example: understudy release renew --root")
def renew(
    root: Annotated[
        bool, typer.Option("--root", help="The root too; takes the root keys.")
    ] = False,
    restored: Annotated[
        bool, typer.Option("--restored", help="The folder is an older copy; go on from there.")
    ] = False,
    releases: Releases = DEFAULT_RELEASES,
    keys: Keys = DEFAULT_KEYS,
) -> None:
    """Signs the same targets again, so that they do not run out."""
    publisher = _repository(releases).publisher(_existing(keys), passphrase())
    publisher.renew(root=root, restored=restored)
    typer.echo(f"signed again: targets{' and root' if root else ''}")


@app.command(epilog=f"Example: {NEW_PASSPHRASE}=... understudy release reseal")
def reseal(keys: Keys = DEFAULT_KEYS) -> None:
    """Puts the keys in a folder under another passphrase; the keys stay the same."""
    from understudy.cloud.releases.keys import FolderKeyRing

    count = FolderKeyRing(_existing(keys), passphrase()).reseal(new_passphrase())
    typer.echo(f"{count} keys in {keys} have the new passphrase")


def _rotation(
    holder: str, count: int | None, threshold: int, uri: str, public: Path | None
) -> Rotation:
    from understudy.cloud.releases import KeyHolder, OutsideKey, Rotation
    from understudy.cloud.releases.signers import read_public_key

    if holder not in set(KeyHolder):
        raise ConfigError(f"'{holder}' holds no keys; name one of {_HOLDERS}")
    if bool(uri) != bool(public):
        raise ConfigError("a key elsewhere needs both --uri, which signs, and --public, its PEM")
    outside = (OutsideKey(uri=uri, public=read_public_key(public)),) if public else ()
    made = 1 - len(outside) if count is None else count
    return Rotation(holder=KeyHolder(holder), made=made, outside=outside, threshold=threshold)


def _tell(holder: KeyHolder, done: Rotated, repository: ReleaseRepository) -> None:
    from understudy.cloud.releases import KeyHolder

    short = [keyid[:12] for keyid in done.fresh]
    typer.echo(f"root version {done.root_version} names {', '.join(short)} for {holder}")
    typer.echo(f"no longer trusted: {', '.join(keyid[:12] for keyid in done.retired)}")
    if holder is KeyHolder.TARGETS:
        offers = repository.store().releases()
        typer.echo(f"signed again by the new keys, {len(offers)} releases:")
        for offer in offers:
            typer.echo(f"  {offer.sequence} {offer.channel} {offer.task} {offer.bundle[:12]}")
        if offers:
            typer.echo("withdraw what you did not publish: understudy release withdraw BUNDLE")


def _repository(releases: Path) -> ReleaseRepository:
    from understudy.cloud.releases import ReleaseRepository

    return ReleaseRepository.open(releases)


def _existing(keys: Path) -> Path:
    if not (keys / "keys.json").is_file():
        raise ConfigError(f"{keys} holds no publisher's keys; name their folder with --keys")
    return keys
