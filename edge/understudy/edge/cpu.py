"""What this machine's CPU can do, as the kernel names it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path

PORTABLE = "portable"
CLASSES = {
    "vnni": frozenset({"avx512_vnni", "avx_vnni"}),
    "dotprod": frozenset({"asimddp"}),
}
"""CPUs of one kind under one name, with the flags of which one is enough; the best first.

Both add up products of bytes without saturating, so that graphs for them use all eight bits.
"""
_CPUINFO = Path("/proc/cpuinfo")


def runs_on(cpu: str, flags: AbstractSet[str]) -> bool:
    """True if what was made for `cpu`, a class, a flag or `portable`, runs with these flags."""
    return cpu == PORTABLE or not flags.isdisjoint(CLASSES.get(cpu, {cpu}))


def best_of(cpus: Iterable[str], flags: AbstractSet[str]) -> str:
    """The class to prefer of those that run here; classes before single flags, else `portable`."""
    fitting = [cpu for cpu in cpus if runs_on(cpu, flags)]
    ranks = {cpu: rank for rank, cpu in enumerate(CLASSES)}
    return min(fitting, key=lambda cpu: (ranks.get(cpu, len(ranks)), cpu), default=PORTABLE)


@cache
def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Flags such as `avx2` or `avx512_vnni`; empty where the kernel does not tell."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Cores this process may run on, at least 1."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on every platform
        return max(1, os.cpu_count() or 1)
