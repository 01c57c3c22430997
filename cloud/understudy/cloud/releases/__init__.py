"""Signed releases: the repository that the publisher writes and the gateway serves.

`Publisher` holds the root and targets keys and signs what may be installed. `ReleaseStore` holds
the snapshot and timestamp keys and signs that it is current. `ReleaseRepository` makes a folder
with both sides. Trust is The Update Framework's, through python-tuf.
"""

from understudy.cloud.releases.explain import Finding, explain
from understudy.cloud.releases.publisher import Publisher, PublisherSettings
from understudy.cloud.releases.release import Offer, Release, ReleaseKind
from understudy.cloud.releases.repository import ReleaseRepository
from understudy.cloud.releases.roles import Lifetimes
from understudy.cloud.releases.rotation import KeyHolder, OutsideKey, Rotated, Rotation
from understudy.cloud.releases.store import ReleaseStore

__all__ = [
    "Finding",
    "KeyHolder",
    "Lifetimes",
    "Offer",
    "OutsideKey",
    "Publisher",
    "PublisherSettings",
    "Release",
    "ReleaseKind",
    "ReleaseRepository",
    "ReleaseStore",
    "Rotated",
    "Rotation",
    "explain",
]
