"""Handing a bundle on: only when it differs from what the fleet has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from understudy.cloud.releases import Publisher

Publish = Callable[[Path, str], None]
"""Takes a bundle's folder and a note; offers the bundle to the fleet."""


def offer(
    bundle: str, directory: Path, champion: str, publish: Publish | None, *, note: str
) -> bool:
    """Publishes a bundle that is not the champion already; tells whether it did."""
    if publish is None or bundle == champion:
        return False
    publish(directory, note)
    return True


def to_channel(publisher: Publisher, channel: str) -> Publish:
    """Publishes through signed releases to one channel; repeating it changes nothing."""

    def publish(directory: Path, note: str) -> None:
        publisher.publish(directory, channel, note=note)

    return publish
