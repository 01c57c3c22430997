"""The cloud's one YAML file as frozen values; units are in the names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from understudy.cloud.rollout_rules import RolloutPlan
from understudy.cloud.serve_options import TRACES_VARIABLE, ServeOptions
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.types.config import parse_config
from understudy.types.contract import Contract
from understudy.types.errors import ConfigError, InvalidValueError

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


class LogBackend(StrEnum):
    """Where the escalation log lives."""

    SQLITE = "sqlite"
    REDIS = "redis"


class CacheBackend(StrEnum):
    """Where exact answers are kept."""

    OFF = "off"
    MEMORY = "memory"
    REDIS = "redis"


class Labelling(StrEnum):
    """Which spooled rows the gateway has labelled by the teacher when it is idle."""

    AUDITS = "audits"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Whose certificates are trusted and shown.

    Attributes:
        directory: Folder of the certificate authority; made on the spot when it is empty.
        certificate: Server certificate, PEM; empty: one is issued by the authority.
        key: Its private key, PEM.
        node_days: Days a node's certificate lasts.
        server_days: Days a server certificate lasts that the authority issues.
    """

    directory: str = "ca"
    certificate: str = ""
    key: str = ""
    node_days: float = 14.0
    server_days: float = 30.0

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InvalidValueError("tls.certificate and tls.key must be given together")
        if min(self.node_days, self.server_days) <= 0.0:
            raise InvalidValueError("tls.node_days and tls.server_days must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """The gRPC gateway.

    Attributes:
        address: `host:port` nodes connect to, with their certificate; port 0 picks a free one.
        enroll_address: `host:port` where a node without a certificate enrols.
        names: Host names and addresses that the server certificate is good for.
        trust_domain: First part of a node's identity, `spiffe://DOMAIN/node/ID`.
        reuse_port: True to let several gateway processes share the address.
        max_message_bytes: Largest message taken.
        max_text_bytes: Longest input taken, UTF-8.
        max_batch_records: Most records in one message.
        max_streams: Most concurrent calls of one connection; more wait in the node.
        clock_skew_s: How far an edge clock may be ahead before its record is refused.
        drain_s: Longest wait for running calls when the gateway stops.
        reflection: True to answer reflection, for debugging.
        check_in_s: Seconds between two check-ins of a node, before jitter.
        duties_s: Seconds between two turns of what one process does for all: labelling, watching.
        wait_for_teacher: True to start only with the teacher up; False to serve weights and take
            feedback at once and go on trying.
    """

    address: str = "127.0.0.1:7443"
    enroll_address: str = "127.0.0.1:7444"
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    trust_domain: str = "understudy"
    reuse_port: bool = False
    max_message_bytes: int = 1 << 20
    max_text_bytes: int = 32 << 10
    max_batch_records: int = 256
    max_streams: int = 100
    clock_skew_s: float = 6 * 3600.0
    drain_s: float = 10.0
    reflection: bool = False
    check_in_s: float = 900.0
    duties_s: float = 2.0
    wait_for_teacher: bool = True

    def __post_init__(self) -> None:
        parse_address(self.address, "gateway.address")
        parse_address(self.enroll_address, "gateway.enroll_address")
        limits = (self.max_message_bytes, self.max_text_bytes, self.max_batch_records)
        if min(*limits, self.max_streams) < 1:
            raise InvalidValueError("the gateway's limits must be at least 1")
        if self.drain_s < 0.0 or min(self.clock_skew_s, self.check_in_s, self.duties_s) <= 0.0:
            raise InvalidValueError(
                "drain_s must be at least 0; clock_skew_s, check_in_s and duties_s above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherConfig:
    """How concurrent escalations become one call to the teacher.

    Attributes:
        max_batch: Most inputs in one call.
        max_wait_s: Longest an input waits for company; one alone does not wait.
        max_calls: Most calls under way.
        max_queue: Most inputs waiting; beyond it the node is told to come back.
        timeout_s: Longest wait for the teacher where the caller set no deadline.
    """

    max_batch: int = 64
    max_wait_s: float = 0.002
    max_calls: int = 8
    max_queue: int = 2048
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_calls, self.max_queue) < 1:
            raise InvalidValueError("max_batch, max_calls and max_queue must be at least 1")
        if self.max_wait_s < 0.0 or self.timeout_s <= 0.0:
            raise InvalidValueError("max_wait_s must be at least 0, timeout_s above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaConfig:
    """What one node may use, of all gateway processes together; 0 switches a limit off.

    Attributes:
        requests_per_s: Calls of any kind, sustained.
        bytes_per_s: Bytes of messages sent by the node, sustained.
        teacher_calls_per_s: Inputs put to the teacher, sustained.
        burst_s: Seconds of the sustained rate a node may use at once.
    """

    requests_per_s: float = 200.0
    bytes_per_s: float = 4e6
    teacher_calls_per_s: float = 100.0
    burst_s: float = 5.0

    def __post_init__(self) -> None:
        rates = (self.requests_per_s, self.bytes_per_s, self.teacher_calls_per_s)
        if min(rates) < 0.0 or self.burst_s <= 0.0:
            raise InvalidValueError("quotas must be at least 0 and burst_s above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The escalation log.

    Attributes:
        backend: `sqlite` or `redis`.
        path: The SQLite file, relative to `state_dir`.
        url: The Redis server, such as `redis://127.0.0.1:6379/0`.
        tenant: Part of every Redis key, so that tenants can share a server.
        retention_days: Days after which a row that every reader is done with is deleted.
        labelling: Which spooled rows the gateway puts to the teacher when it is idle.
    """

    backend: LogBackend = LogBackend.SQLITE
    path: str = "log.db"
    url: str = "redis://127.0.0.1:6379/0"
    tenant: str = "default"
    retention_days: float = 90.0
    labelling: Labelling = Labelling.AUDITS

    def __post_init__(self) -> None:
        if self.retention_days <= 0.0:
            raise InvalidValueError("log.retention_days must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Exact answers to identical inputs; off unless asked for.

    Attributes:
        backend: `off`, `memory` or `redis`.
        url: The Redis server, for `redis`.
        max_entries: Most answers kept in memory.
        ttl_s: Seconds an answer stays good.
    """

    backend: CacheBackend = CacheBackend.OFF
    url: str = "redis://127.0.0.1:6379/1"
    max_entries: int = 10_000
    ttl_s: float = 86_400.0

    def __post_init__(self) -> None:
        if self.max_entries < 1 or self.ttl_s <= 0.0:
            raise InvalidValueError("cache.max_entries must be at least 1, cache.ttl_s above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """The operator's HTTP port: metrics, health, state.

    Attributes:
        address: `host:port`; empty switches it off.
        token: Bearer token for the console's buttons; empty: no buttons.
        reports_dir: Folder of the nights' reports, relative to `state_dir`.
        cost_per_teacher_call: What one teacher call costs, for the console; 0: not shown.
        currency: Of that cost.
    """

    address: str = "127.0.0.1:7480"
    token: str = ""
    reports_dir: str = "reports"
    cost_per_teacher_call: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        if self.address:
            parse_address(self.address, "operator.address")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task that student and teacher answer.

    Attributes:
        labels: Class names; empty: whatever the teacher knows.
        contract: What quality may be lost against the teacher.
    """

    labels: tuple[str, ...] = ()
    contract: Contract = field(default_factory=Contract)

    def __post_init__(self) -> None:
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            raise InvalidValueError("a task needs at least two labels, each named once")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """Everything the operator says about a cloud.

    Attributes:
        state_dir: Folder of all that outlives a restart; other paths are relative to it.
        tasks: Tasks by name.
        teacher: Which teacher answers.
        serve: How Ray Serve runs it; without this section it runs in the gateway's process.
        gateway: The gRPC gateway.
        tls: Certificates.
        gather: How escalations are gathered.
        quotas: What one node may use.
        log: The escalation log.
        cache: Exact answers.
        operator: The operator's HTTP port.
        rollout: How fast a release spreads.
        releases_dir: Folder of the release repository, relative to `state_dir`.
        tracing: OTLP/HTTP endpoint for spans, such as `http://127.0.0.1:4318`; empty for none.
    """

    state_dir: str = "cloud-state"
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    teacher: TeacherSpec = field(default_factory=TeacherSpec)
    serve: ServeOptions | None = None
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    gather: GatherConfig = field(default_factory=GatherConfig)
    quotas: QuotaConfig = field(default_factory=QuotaConfig)
    log: LogConfig = field(default_factory=LogConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    operator: OperatorConfig = field(default_factory=OperatorConfig)
    rollout: RolloutPlan = field(default_factory=RolloutPlan)
    releases_dir: str = "releases"
    tracing: str = ""

    def path(self, name: str) -> Path:
        """A path of the file as the operator meant it: relative to `state_dir`."""
        return Path(self.state_dir).expanduser() / Path(name).expanduser()

    def path_of(self, task: str, name: str) -> Path:
        """A folder that tasks do not share: that of `path`, or one in it for each of several."""
        return self.path(name) if len(self.tasks) == 1 else self.path(name) / task


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> CloudConfig:
    """Reads `cloud.yaml`; a relative `state_dir` is relative to the file.

    Args:
        path: The file.
        environment: Variables for `${NAME}`; the process's when omitted.

    Raises:
        ConfigError: If the file cannot be read, or a person must edit it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    variables = os.environ if environment is None else environment
    return read_config(text, source=str(path), folder=path.parent, environment=variables)


def read_config(
    text: str, *, source: str, folder: Path, environment: Mapping[str, str] | None = None
) -> CloudConfig:
    """`load_config` for text that is at hand; `folder` is where relative paths begin."""
    config = parse_config(text, CloudConfig, source=source, environment=environment)
    if not config.tasks:
        raise ConfigError(f"{source}: name at least one task under 'tasks'")
    for name in config.tasks:
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"{source}: a task cannot be named '{name}': use a plain word")
    anchored = replace(config, teacher=_anchored(config.teacher, folder), serve=_traced(config))
    return replace_state_dir(anchored, folder / Path(config.state_dir).expanduser())


def _traced(config: CloudConfig) -> ServeOptions | None:
    """Replicas send their spans where the gateway does, unless their environment says otherwise."""
    if config.serve is None or not config.tracing:
        return config.serve
    return replace(
        config.serve, environment={TRACES_VARIABLE: config.tracing, **config.serve.environment}
    )


def _anchored(teacher: TeacherSpec, folder: Path) -> TeacherSpec:
    """Paths of the teacher's files begin where the configuration lies, not where one types."""

    def path(name: str) -> str:
        return str((folder / Path(name).expanduser()).absolute()) if name else ""

    local = (folder / teacher.model).is_dir()
    return replace(
        teacher,
        model=path(teacher.model) if local else teacher.model,
        head=path(teacher.head),
        adapter=path(teacher.adapter),
        recordings=path(teacher.recordings),
    )


def replace_state_dir(config: CloudConfig, state_dir: Path) -> CloudConfig:
    """The same cloud with its state elsewhere."""
    return replace(config, state_dir=str(state_dir.absolute()))


def parse_address(address: str, key: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        InvalidValueError: If it is no address; the message names the key.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > 65_535:
        raise InvalidValueError(f"{key} must read host:port, not '{address}'")
    return found["host"].strip("[]"), int(found["port"])
