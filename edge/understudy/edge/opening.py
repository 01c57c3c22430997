"""The composition root of a client: reads, loads, connects the parts, starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.edge.bundle import Bundle, read_bundle
from understudy.edge.cache import TeacherCache
from understudy.edge.circuit import Circuit
from understudy.edge.config import ContractConfig, EdgeConfig, load_config
from understudy.edge.credentials import read_credentials
from understudy.edge.engine import Engine
from understudy.edge.events import Events
from understudy.edge.loaded import load
from understudy.edge.node import Node, NodeView, make_check_ins
from understudy.edge.orders import Orders
from understudy.edge.ports import Cloud
from understudy.edge.privacy import BeforeSend, Outbox
from understudy.edge.purse import Purse
from understudy.edge.runtime import CloudHolder, Runtime
from understudy.edge.spool import Spool
from understudy.edge.telemetry import LOG, Telemetry
from understudy.edge.tls import is_loopback
from understudy.edge.updater_probation import ProbationCounters
from understudy.edge.updater_state import StateFolder, boot
from understudy.edge.uploader import Uploader
from understudy.files import write_atomic
from understudy.router.budget import Spending
from understudy.types.errors import BundleError, ConfigError
from understudy.types.records import EscalationRecord
from understudy.types.release import Directive, NodeStatus

if TYPE_CHECKING:
    from understudy.edge.transport import AsyncCloudLink

_AUDIT_KEY = "audit.key"
_FIRST_STEPS = 64


def open_runtime(
    source: EdgeConfig | Path | str,
    *,
    cloud: Cloud | None = None,
    before_send: BeforeSend | None = None,
) -> Runtime:
    """Builds a client's inside.

    Args:
        source: A configuration, its file, or a bundle's directory.
        cloud: The cloud to use in place of the configured gateway.
        before_send: The product's last word on what leaves.

    Raises:
        ConfigError: If the configuration is wrong, or no student is to be had.
        BundleError: If the student cannot be used.
    """
    config = source if isinstance(source, EdgeConfig) else load_config(source)
    key = _audit_key(config)
    telemetry, circuit = Telemetry(), Circuit()
    orders = Orders(Path(config.state_dir) if config.state_dir else None, telemetry.fault)
    loaded = load(_first_bundle(config), config, key, config.audit.rate)
    loaded = loaded.directed(orders.of(loaded.bundle.id))
    link = CloudHolder(_cloud_maker(config, cloud))
    directory = Path(config.state_dir, "spool") if config.state_dir else None
    spool = Spool(directory, config.spool, telemetry.fault)
    uploader = Uploader(spool, link.get, circuit, telemetry, config.spool.queue_rows)
    engine = Engine(
        config=config,
        current=lambda: runtime.loaded,
        telemetry=telemetry,
        circuit=circuit,
        cache=TeacherCache(config.cache.entries, config.cache.ttl_s),
        outbox=Outbox(config.privacy, key, before_send),
        purse=Purse(_spending(config.contract)),
        events=Events(telemetry),
        spool=uploader.put if config.spool.enabled else _drop,
        background=uploader.ask,
        shadow=lambda *seen: runtime.shadow(*seen),  # noqa: PLW0108 - runtime comes below
        has_cloud=link.configured,
    )
    maker = _node_maker(link) if link.configured else None
    runtime = Runtime(loaded, engine, uploader, link, make_node=maker, audit_key=key, orders=orders)
    return runtime


def _spending(contract: ContractConfig) -> Spending:
    return Spending(contract.max_teacher_share, contract.early_lead, contract.early_requests)


def _drop(record: EscalationRecord) -> None:
    """A product that wants no spool has said so."""


def _first_bundle(config: EdgeConfig) -> Bundle:
    """The student to begin with: the activated one, the delivered one, or the cloud's.

    A state folder that cannot be written costs updates, not answers.
    """
    if not config.state_dir:
        return read_bundle(config.bundle)
    state = Path(config.state_dir)
    try:
        if config.bundle:
            StateFolder(state).adopt(Path(config.bundle))
        elif StateFolder(state).current() is None:
            _fetch_first(config)
        bundle = boot(state)
    except OSError as error:
        LOG.warning("understudy edge: %s cannot be written: %s", state, error.strerror)
        bundle = _readable_slot(state)
    if bundle is None and config.bundle:
        bundle = read_bundle(config.bundle)
    if bundle is None:
        raise ConfigError(
            f"no student is installed in {state}: set `bundle` to a bundle's directory, "
            "or `gateway` and `updater.trusted_root` to fetch one"
        )
    return bundle


def _readable_slot(state: Path) -> Bundle | None:
    """The activated student of a folder that can only be read."""
    for slot in ("A", "B"):
        with suppress(BundleError):
            bundle = read_bundle(state / "slots" / slot)
            with suppress(OSError):
                if bundle.id in (state / "current").read_text():
                    return bundle
    return None


def _fetch_first(config: EdgeConfig) -> None:
    """Lets the updater install a first student, since there is none to answer meanwhile."""
    root = _trusted_root(config)
    make = _cloud_maker(config, None)
    if root is None or make is None:
        return
    link, folder = make(), StateFolder(Path(config.state_dir))
    updater = make_updater(config, root, link, _Nobody(config))
    try:
        for _ in range(_FIRST_STEPS):
            updater.step()
            if folder.current() is not None or updater.due_in_s() > 0:
                return
    finally:
        updater.close()
        close = getattr(link, "close", None)
        if close is not None:
            close()


class _Nobody:
    """The student of a node that has none yet (`updater_ports.RunningStudent`)."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._bundle = ""

    def status(self) -> NodeStatus:
        return NodeStatus(task=self._config.task, bundle=self._bundle)

    def swap(self, bundle: Bundle) -> None:
        self._bundle = bundle.id

    def probation(self) -> ProbationCounters:
        return ProbationCounters()

    def obey(self, directive: Directive) -> None:
        """Nobody answers yet."""


def make_updater(config: EdgeConfig, root: bytes, link: Any, student: Any) -> Any:  # noqa: ANN401 - the updater's ports
    """The updater of a node, as configured."""
    from understudy.edge.updater import ProbationRules, Updater, UpdateSettings, UpdateWindow

    wanted = config.updater
    settings = UpdateSettings(
        channel=wanted.channel,
        check_in_s=wanted.check_interval_s,
        bytes_per_s=wanted.max_bytes_per_s,
        window=UpdateWindow(start=wanted.window_start, end=wanted.window_end),
        use_deltas=wanted.deltas,
        probation=ProbationRules(min_requests=wanted.probation_requests, min_s=wanted.probation_s),
    )
    return Updater(config.state_dir, root, link, student, settings)


def _node_maker(link: CloudHolder) -> Callable[[Runtime], Node | None]:
    def make(runtime: Runtime) -> Node | None:
        cloud: Any = link.get()
        config, root = runtime.config, _trusted_root(runtime.config)
        if config.updater.enabled and config.state_dir and root and hasattr(cloud, "metadata"):
            with suppress(OSError):
                return Node(runtime, make_updater(config, root, cloud, NodeView(runtime)))
        return make_check_ins(runtime, cloud) if hasattr(cloud, "check_in") else None

    return make


def _cloud_maker(config: EdgeConfig, cloud: Cloud | None) -> Callable[[], Cloud] | None:
    if cloud is not None:
        return lambda: cloud
    gateway = config.gateway
    if not gateway.address:
        return None
    if gateway.tls is None and not is_loopback(gateway.address):
        raise ConfigError(
            f"gateway.address {gateway.address} is not on this machine, so gateway.tls must be set"
        )
    if gateway.tls is not None:
        read_credentials(gateway.tls)  # a wrong path is an error now, not in a thread later
    # Here, not at the first doubt: the import takes longer than many a budget.
    from understudy.edge.transport import CloudLink

    def make() -> Cloud:
        return CloudLink(gateway.address, read_credentials(gateway.tls) if gateway.tls else None)

    return make


def open_async_link(config: EdgeConfig) -> AsyncCloudLink | None:
    """The awaiting link of a client; None without a cloud."""
    gateway = config.gateway
    if not gateway.address:
        return None
    from understudy.edge.transport import AsyncCloudLink

    return AsyncCloudLink(gateway.address, read_credentials(gateway.tls) if gateway.tls else None)


def _trusted_root(config: EdgeConfig) -> bytes | None:
    if not config.updater.trusted_root:
        return None
    try:
        return Path(config.updater.trusted_root).read_bytes()
    except OSError as error:
        path = config.updater.trusted_root
        raise ConfigError(
            f"updater.trusted_root: {path} cannot be read: {error.strerror}"
        ) from error


def _audit_key(config: EdgeConfig) -> bytes:
    """The node's secret: configured, kept in the state folder, or as short-lived as the process."""
    if config.audit.key:
        return config.audit.key.encode()
    fresh = os.urandom(32)
    if not config.state_dir:
        return fresh
    path = Path(config.state_dir, _AUDIT_KEY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            write_atomic(path, fresh)
        kept = path.read_bytes()
    except OSError:
        return fresh
    return kept if 16 <= len(kept) <= 64 else fresh
