"""What `understudy doctor` looks at: facts are gathered here, judged by rules that are pure.

A rule takes values and returns a `Finding`: what was looked at, how it is, what was seen, and what
to do. `examine` gathers the facts of this machine and of the configurations that are named. It
changes nothing, waits for nothing longer than two seconds, and prints no secret and no input.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.types.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig
    from understudy.edge.config import EdgeConfig

_WAIT_S = 2.0
_DAY_S = 86_400.0
_MIN_FREE_BYTES = 1 << 30
_BUILT_UNIX_S = 1_760_000_000.0
"""A clock before this (October 2025) is wrong: the software is younger."""

CORE = {
    "grpcio": "1.80",
    "msgspec": "0.19",
    "numpy": "1.26",
    "onnxruntime": "1.22",
    "protobuf": "6.31",
    "tokenizers": "0.21",
    "tuf": "6",
}
CLOUD = {"ray": "2.60", "torch": "2.9", "transformers": "5.16.1", "redis": "6"}
EXTRAS = dict.fromkeys(CORE, "") | dict.fromkeys(CLOUD, "cloud")


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


# ---- rules: values in, finding out


def judge_python(found: tuple[int, ...]) -> Finding:
    """Python must be 3.11 or newer."""
    says = f"Python {'.'.join(map(str, found[:3]))}"
    if found[:2] < (3, 11):
        return Finding("python", Health.FAIL, says, "install Python 3.11 or newer")
    return Finding("python", Health.OK, says)


def judge_package(name: str, found: str | None, wanted: str) -> Finding:
    """A package is there and not older than what we were tested with."""
    extra = EXTRAS.get(name, "")
    install = f"pip install 'understudy[{extra}]'" if extra else "pip install -U understudy"
    if found is None:
        return Finding(name, Health.FAIL, "is not installed", install)
    if _numbers(found) < _numbers(wanted):
        return Finding(name, Health.FAIL, f"{found} is older than {wanted}", install)
    return Finding(name, Health.OK, found)


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


def judge_clock(now_unix_s: float) -> Finding:
    """Certificates, metadata and the log all trust the clock."""
    if now_unix_s < _BUILT_UNIX_S:
        return Finding(
            "clock", Health.FAIL, "is in the past", "set the time: timedatectl set-ntp on"
        )
    return Finding("clock", Health.OK, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s)))


def judge_certificate(
    name: str, not_before_unix_s: float, not_after_unix_s: float, now_unix_s: float, renew: str
) -> Finding:
    """A certificate must be valid now, and should have a fifth of its life before it."""
    left_s = not_after_unix_s - now_unix_s
    if now_unix_s < not_before_unix_s:
        return Finding(name, Health.FAIL, "is not valid yet", "set the clock of this machine")
    if left_s <= 0:
        return Finding(name, Health.FAIL, f"expired {-left_s / _DAY_S:.0f} days ago", renew)
    says = f"valid for {left_s / _DAY_S:.0f} days"
    if left_s < 0.2 * (not_after_unix_s - not_before_unix_s):
        return Finding(
            name, Health.WARN, says, "it should have been renewed: is the cloud reachable?"
        )
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


# ---- facts: gathered from this machine


def examine(
    *, edge: Path | None = None, cloud: Path | None = None, now_unix_s: float | None = None
) -> list[Finding]:
    """Looks at this machine, and at what the named configurations need.

    Args:
        edge: `edge.yaml` to look at.
        cloud: `cloud.yaml` to look at.
        now_unix_s: The time; the machine's when omitted.
    """
    now = time.time() if now_unix_s is None else now_unix_s
    findings = [*_machine(now)]
    if edge is not None:
        findings += _guarded("edge", lambda: _edge(edge, now))
    if cloud is not None:
        findings += _guarded("cloud", lambda: _cloud(cloud))
    return findings


def worst(findings: Iterable[Finding]) -> Health:
    """The worst health among findings."""
    seen = {finding.health for finding in findings}
    return next((health for health in (Health.FAIL, Health.WARN) if health in seen), Health.OK)


def _machine(now_unix_s: float) -> Iterator[Finding]:
    from understudy.edge.cpu import cpu_flags, usable_cores

    yield judge_python(sys.version_info[:3])
    yield judge_cpu(platform.machine(), cpu_flags(), usable_cores())
    yield judge_clock(now_unix_s)
    for name, wanted in CORE.items():
        yield judge_package(name, _installed(name), wanted)
    vllm_cpu = _installed("vllm-cpu") is not None
    if vllm_cpu:
        torchvision = _installed("torchvision") is not None
        yield judge_vision(vllm_cpu=vllm_cpu, torchvision=torchvision)


def _edge(path: Path, now_unix_s: float) -> Iterator[Finding]:
    from understudy.edge.config import load_config

    config = load_config(path)
    yield Finding("edge.yaml", Health.OK, f"{path} is read")
    if config.state_dir:
        yield from _folder("state_dir", Path(config.state_dir))
    yield from _edge_bundle(config)
    tls = config.gateway.tls
    if tls is not None and tls.certificate:
        yield _certificate("certificate", Path(tls.certificate), now_unix_s)
        if Path(tls.key).exists():
            yield judge_rights("key", Path(tls.key).stat().st_mode)
    if config.gateway.address:
        trouble = _reach(config.gateway.address)
        do = "the student answers meanwhile; check name, firewall and that the cloud is up"
        yield judge_peer("gateway", config.gateway.address, trouble, do)


def _edge_bundle(config: EdgeConfig) -> Iterator[Finding]:
    if not config.bundle or not Path(config.bundle).exists():
        if config.bundle and not config.state_dir:
            yield Finding("bundle", Health.FAIL, f"{config.bundle} is not there", "name a bundle")
        return
    from understudy.edge.bundle import read_bundle

    bundle = read_bundle(Path(config.bundle))
    yield Finding("bundle", Health.OK, f"{bundle.id[:12]}: every byte is what was published")


def _cloud(path: Path) -> Iterator[Finding]:
    from understudy.cloud.config import load_config
    from understudy.cloud.process import read_state_file

    for name, wanted in CLOUD.items():
        yield judge_package(name, _installed(name), wanted)
    config = load_config(path)
    yield Finding("cloud.yaml", Health.OK, f"{path} is read")
    yield from _folder("state_dir", Path(config.state_dir))
    if read_state_file(config) is not None:
        yield Finding("gateway", Health.OK, "runs here; its ports are its own")
    else:
        yield from _ports(config)
    yield from _redis(config)


def _ports(config: CloudConfig) -> Iterator[Finding]:
    places = {
        "gateway.address": config.gateway.address,
        "gateway.enroll_address": config.gateway.enroll_address,
        "operator.address": config.operator.address,
    }
    for name, address in places.items():
        if address:
            yield judge_port(name, address, _listen(address))


def _redis(config: CloudConfig) -> Iterator[Finding]:
    if config.log.backend != "redis":
        return
    import redis

    try:
        with redis.Redis.from_url(
            config.log.url, socket_timeout=_WAIT_S, socket_connect_timeout=_WAIT_S
        ) as client:
            read = client.config_get("maxmemory-policy", "appendonly")
    except redis.RedisError as error:
        # The address holds a password; the error's text does not.
        yield judge_peer("redis server", "log.url", str(error), "start Redis, or change log.url")
        return
    yield judge_redis({str(k): str(v) for k, v in _decoded(read).items()})


def _decoded(settings: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    def text(value: bytes | str) -> str:
        return value.decode() if isinstance(value, bytes) else value

    return {text(key): text(value) for key, value in settings.items()}


def _folder(name: str, folder: Path) -> Iterator[Finding]:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        yield Finding(
            name, Health.FAIL, f"{there} cannot be written", "change its owner, or the key"
        )
        return
    yield judge_space(name, shutil.disk_usage(there).free)


def _certificate(name: str, path: Path, now_unix_s: float) -> Finding:
    from cryptography import x509

    renew = "enrol the node again: understudy node enroll"
    if not path.exists():
        return Finding(name, Health.FAIL, f"{path} is not there", renew)
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return Finding(name, Health.FAIL, f"{path} is no certificate", renew)
    begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return judge_certificate(name, begin, end, now_unix_s, renew)


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Findings up to the first thing that stops the look; that is a finding too."""
    findings: list[Finding] = []
    try:
        findings.extend(look())
    except UnderstudyError as error:
        findings.append(Finding(name, Health.FAIL, str(error), error.hint))
    except ModuleNotFoundError as error:
        findings.append(Finding(name, Health.FAIL, f"'{error.name}' is not installed"))
    except OSError as error:
        says = f"{error.filename or name}: {error.strerror or error}"
        findings.append(Finding(name, Health.FAIL, says))
    return findings


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.13.0+cpu` is (2, 13, 0)."""
    parts = text.split("+", maxsplit=1)[0].split(".")
    digits = ["".join(c for c in part if c.isdigit()) for part in parts]
    return tuple(int(d) for d in digits if d)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(address: str) -> str:
    """Why nobody can listen there; empty when somebody can."""
    host, port = _split(address)
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        return "is in use" if busy else error.strerror or str(error)
    return ""


def _reach(address: str) -> str:
    """Why nobody answers there; empty when somebody does."""
    try:
        socket.create_connection(_split(address), timeout=_WAIT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
