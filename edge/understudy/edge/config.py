"""`edge.yaml` as frozen dataclasses: every default here, every unit in the name.

Standard library and the configuration parser only, so that a wrong file is refused before anything
heavy is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from understudy.types.contract import OnUncertified, Precedence
from understudy.types.errors import ConfigError, InvalidValueError

MIN_KEY_BYTES = 16


class Mode(StrEnum):
    """How the client escalates."""

    WAIT = "wait"
    """Ask the teacher and wait for it within the deadline."""
    ANSWER_FIRST = "answer_first"
    """Answer at once with the student, ask in the background, report the correction."""
    EDGE_ONLY = "edge_only"
    """Never ask while answering; records still go to the spool."""


class Redaction(StrEnum):
    """What is done to a text before it leaves the process."""

    NONE = "none"
    CONTACTS = "contacts"
    """E-mail addresses, web addresses and phone numbers."""
    STRICT = "strict"
    """Contacts, and every number of three digits or more: cards, accounts, dates of birth."""


class ProfileName(StrEnum):
    """What a product spends on the student."""

    LATENCY = "latency"
    BALANCED = "balanced"
    SMALL = "small"


class Durability(StrEnum):
    """What a spooled record survives."""

    CRASH = "crash"
    """The process dies at any point."""
    POWER = "power"
    """The power fails at any point; every write waits for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files; a missing node certificate means: not enrolled yet.

    Attributes:
        ca: Who must have signed the gateway's certificate.
        certificate: The node's own certificate; renewed in place.
        key: The key of `certificate`.
        server_name: Name in the gateway's certificate, where it differs from the address.
    """

    ca: str
    certificate: str = ""
    key: str = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InvalidValueError("tls.certificate and tls.key go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where the cloud is.

    Attributes:
        address: `host:port`; empty means that there is no cloud.
        tls: PEM files; may be left out on this very machine only.
    """

    address: str = ""
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractConfig:
    """What a node may override of the contract in its bundle; it can only become more careful.

    Attributes:
        on_uncertified: What to do while nothing is certified; the bundle's word when left out.
        precedence: Who wins when contract and budget disagree; the bundle's word when left out.
        max_teacher_share: Largest share of requests that may call the teacher, in (0, 1]; 1 is no
            limit.
        early_lead: How much more of that share is spent at first, in [0, 1): an answer asked for
            early teaches the student all that follows. 0.9 asks nearly twice as often at first.
        early_requests: Over how many requests the lead is paid back; later ones spend evenly.
    """

    on_uncertified: OnUncertified | None = None
    precedence: Precedence | None = None
    max_teacher_share: float = 1.0
    early_lead: float = 0.0
    early_requests: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.max_teacher_share <= 1.0:
            raise InvalidValueError("contract.max_teacher_share must lie above 0 and up to 1")
        if not 0.0 <= self.early_lead < 1.0 or self.early_requests < 0:
            raise InvalidValueError(
                "contract.early_lead must lie from 0 to below 1, early_requests not below 0"
            )
        if self.early_lead > 0.0 and not (self.early_requests and self.max_teacher_share < 1.0):
            raise InvalidValueError(
                "contract.early_lead needs a max_teacher_share below 1 to spend early, and "
                "early_requests, over how many it is paid back"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """The audit coin.

    Attributes:
        rate: Probability that a kept answer is also shown to the teacher, in (0, 1].
        key: Secret of the node, at least 16 bytes of text; made and kept in `state_dir` when
            empty.
    """

    rate: float = 0.02
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise InvalidValueError(f"audit.rate must lie above 0 and up to 1, not {self.rate}")
        if self.key and not MIN_KEY_BYTES <= len(self.key.encode()) <= 64:
            raise InvalidValueError(f"audit.key needs {MIN_KEY_BYTES} to 64 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """Records waiting for the cloud, on disk.

    Attributes:
        enabled: Keep records at all; without `state_dir` they live in memory only.
        max_bytes: Largest sum of payloads on disk.
        max_rows: Most records on disk.
        max_age_s: Oldest record kept.
        queue_rows: Most records in memory on their way to the disk.
        durability: What a record survives.
        key: Hex of 32 bytes; payloads are encrypted with AES-256-GCM when set.
    """

    enabled: bool = True
    max_bytes: int = 64 << 20
    max_rows: int = 50_000
    max_age_s: float = 7 * 86_400.0
    queue_rows: int = 256
    durability: Durability = Durability.CRASH
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_rows, self.queue_rows) < 1 or not self.max_age_s > 0:
            raise InvalidValueError("every bound of the spool must be positive")
        if self.key and not _is_hex(self.key, 32):
            raise InvalidValueError("spool.key must be 64 hex digits, which are 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Exact cache of teacher answers; off with 0 entries.

    Attributes:
        entries: Most answers kept.
        ttl_s: How long an answer is reused.
    """

    entries: int = 0
    ttl_s: float = 600.0

    def __post_init__(self) -> None:
        if self.entries < 0 or not self.ttl_s > 0:
            raise InvalidValueError("cache.entries may not be negative, cache.ttl_s must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What leaves the process.

    Attributes:
        redaction: What is done to a text first.
        send_text: Whether texts may leave at all; without, nothing is escalated or reported.
        hash_subjects: Replace subjects by a digest keyed with this node's audit key.
    """

    redaction: Redaction = Redaction.NONE
    send_text: bool = True
    hash_subjects: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdaterConfig:
    """Over-the-air students.

    Attributes:
        enabled: Ask for new students.
        channel: Channel to follow.
        check_interval_s: Time between check-ins, unless the cloud says otherwise.
        trusted_root: TUF root to pin, a file; the enrolled one when empty.
        max_bytes_per_s: Bandwidth of downloads; 0 is no limit.
        window_start: Local time `HH:MM` at which downloads may begin; empty for any time.
        window_end: Local time `HH:MM` at which they end.
        deltas: Ask for the difference to the present student first.
        probation_requests: Answers wanted from a new student before it is kept for good.
        probation_s: Seconds wanted before it is kept for good.
    """

    enabled: bool = True
    channel: str = "stable"
    check_interval_s: float = 900.0
    trusted_root: str = ""
    max_bytes_per_s: int = 0
    window_start: str = ""
    window_end: str = ""
    deltas: bool = True
    probation_requests: int = 200
    probation_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.check_interval_s > 0 or self.max_bytes_per_s < 0:
            raise InvalidValueError("updater intervals must be positive, bandwidth not negative")
        if self.probation_requests < 0 or not self.probation_s >= 0:
            raise InvalidValueError("updater.probation_requests and probation_s must not be < 0")
        if bool(self.window_start) != bool(self.window_end):
            raise InvalidValueError("updater.window_start and updater.window_end go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig:
    """Where the sidecar listens; port 0 takes a free one, -1 switches the face off.

    Attributes:
        host: Address to listen on; whoever reaches it may ask, so keep it on this machine or
            inside one pod.
        http_port: HTTP and JSON.
        grpc_port: gRPC.
    """

    host: str = "127.0.0.1"
    http_port: int = 8090
    grpc_port: int = 8091

    def __post_init__(self) -> None:
        if not all(-1 <= port <= 65_535 for port in (self.http_port, self.grpc_port)):
            raise InvalidValueError("sidecar ports must lie in [-1, 65535]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """One embedded client.

    Attributes:
        bundle: Directory of the student to start with; may be left out when `state_dir` already
            holds an activated one.
        state_dir: Where spool, trust and downloaded students live; nothing is kept when empty.
        task: Name of the task; the bundle's when empty.
        gateway: Where the cloud is.
        mode: How the client escalates.
        deadline_ms: Budget of one call, milliseconds.
        profile: What the product spends on the student.
        check_golden: Run the golden vectors at start.
        contract: What this node overrides of the contract.
        audit: The audit coin.
        spool: Records waiting for the cloud.
        cache: Exact cache of teacher answers.
        privacy: What leaves the process.
        updater: Over-the-air students.
        sidecar: Where `understudy edge serve` listens.
    """

    bundle: str = ""
    state_dir: str = ""
    task: str = ""
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    mode: Mode = Mode.WAIT
    deadline_ms: float = 800.0
    profile: ProfileName = ProfileName.BALANCED
    check_golden: bool = True
    contract: ContractConfig = field(default_factory=ContractConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    updater: UpdaterConfig = field(default_factory=UpdaterConfig)
    sidecar: SidecarConfig = field(default_factory=SidecarConfig)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise InvalidValueError(f"deadline_ms must be positive, not {self.deadline_ms}")
        if not self.bundle and not self.state_dir:
            raise InvalidValueError("name a bundle directory, a state_dir, or both")


def load_config(path: Path | str, environment: Mapping[str, str] | None = None) -> EdgeConfig:
    """Reads `edge.yaml`; relative paths in it start at the file's own folder.

    Args:
        path: The file, or a bundle's directory for a client without a cloud.
        environment: Variables for `${NAME}`; the process's when omitted.

    Raises:
        ConfigError: If the file cannot be read or a key or value is wrong; the message names it.
    """
    # The parser and its YAML library are only needed here.
    from understudy.types.config import parse_config

    file = Path(path)
    if file.is_dir():
        return EdgeConfig(bundle=str(file.absolute()))
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    variables = os.environ if environment is None else environment
    config = parse_config(text, EdgeConfig, source=str(file), environment=variables)
    return _absolute(config, file.parent.absolute())


def _absolute(config: EdgeConfig, folder: Path) -> EdgeConfig:
    """Anchors relative paths: the product may change its working directory."""

    def anchor(path: str) -> str:
        return str(folder / path) if path else ""

    tls = config.gateway.tls
    if tls is not None:
        tls = replace(
            tls, ca=anchor(tls.ca), certificate=anchor(tls.certificate), key=anchor(tls.key)
        )
    return replace(
        config,
        bundle=anchor(config.bundle),
        state_dir=anchor(config.state_dir),
        gateway=replace(config.gateway, tls=tls),
        updater=replace(config.updater, trusted_root=anchor(config.updater.trusted_root)),
    )


def _is_hex(text: str, size: int) -> bool:
    try:
        return len(bytes.fromhex(text)) == size
    except ValueError:
        return False
