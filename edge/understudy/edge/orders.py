"""The cloud's last orders on disk: a restart must not forget that a certificate was withdrawn.

One file in the state folder, tied to the bundle it speaks of: another bundle begins without orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from understudy.edge.telemetry import LOG, Fault
from understudy.files import read_bounded, write_atomic
from understudy.types.release import Directive, SliceOrder

_FILE, _ASIDE = "orders.json", "orders.json.damaged"
_MOST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """One slice's order; no floor is the infinite one, which JSON cannot say."""

    name: str
    threshold_floor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The lasting part of a directive, as it lies on disk."""

    bundle: str
    certificate_revoked: bool
    threshold_floor: float | None
    audit_rate: float
    revoked_slices: tuple[_Slice, ...] = ()


class Orders:
    """What the cloud ordered last; written by the update thread, read when a student is loaded.

    Args:
        directory: The node's state folder; None to keep nothing.
        fault: Told when the file cannot be read or written. The orders hold in memory all the same.
    """

    def __init__(self, directory: Path | None, fault: Callable[[Fault], None]) -> None:
        self._path = directory / _FILE if directory is not None else None
        self._fault = fault

    def keep(self, bundle: str, directive: Directive) -> None:
        """Makes orders about a bundle durable; a calm directive ends them."""
        if self._path is None:
            return
        wanted = _kept(bundle, directive)
        try:
            if wanted == _kept(bundle, Directive()):
                self._path.unlink(missing_ok=True)
            elif not self._holds(wanted):
                write_atomic(self._path, msgspec.json.encode(wanted))
        except OSError as error:
            self._fault(Fault.ORDERS)
            LOG.warning("understudy edge: orders cannot be kept: %s", error.strerror)

    def of(self, bundle: str) -> Directive:
        """The orders that stand for a bundle; a calm directive when there are none."""
        kept = self._read()
        if kept is None or kept.bundle != bundle:
            return Directive()
        return Directive(
            certificate_revoked=kept.certificate_revoked,
            threshold_floor=_infinite(kept.threshold_floor),
            audit_rate=kept.audit_rate,
            revoked_slices=tuple(
                SliceOrder(s.name, _infinite(s.threshold_floor)) for s in kept.revoked_slices
            ),
        )

    def _holds(self, wanted: _Kept) -> bool:
        assert self._path is not None  # noqa: S101 - the caller has looked
        with suppress(FileNotFoundError):
            return read_bounded(self._path, _MOST_BYTES) == msgspec.json.encode(wanted)
        return False

    def _read(self) -> _Kept | None:
        """What lies on disk; a damaged file is set aside and counted."""
        if self._path is None:
            return None
        try:
            return msgspec.json.decode(read_bounded(self._path, _MOST_BYTES), type=_Kept)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._set_aside(self._path)
        except OSError as error:
            LOG.warning("understudy edge: orders cannot be read: %s", error.strerror)
        self._fault(Fault.ORDERS)
        return None

    def _set_aside(self, path: Path) -> None:
        LOG.warning("understudy edge: %s is damaged and was set aside", path)
        with suppress(OSError):
            path.replace(path.with_name(_ASIDE))


def _kept(bundle: str, directive: Directive) -> _Kept:
    return _Kept(
        bundle=bundle,
        certificate_revoked=directive.certificate_revoked,
        threshold_floor=_finite(directive.threshold_floor),
        audit_rate=directive.audit_rate if directive.audit_rate > 0.0 else -1.0,
        revoked_slices=tuple(
            _Slice(name=s.name, threshold_floor=_finite(s.threshold_floor))
            for s in directive.revoked_slices
        ),
    )


def _finite(floor: float) -> float | None:
    """A floor that is no number keeps nothing, like the infinite one."""
    return floor if math.isfinite(floor) else None


def _infinite(floor: float | None) -> float:
    return math.inf if floor is None else floor
