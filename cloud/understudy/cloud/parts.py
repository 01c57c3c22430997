"""From the configuration to the parts of a cloud, built and not started."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from understudy.cloud.authority import Credential, open_authority
from understudy.cloud.cache import AnswerCache, MemoryCache, RedisCache
from understudy.cloud.config import CacheBackend, CloudConfig, LogBackend
from understudy.cloud.enrolment import Enrolment
from understudy.cloud.gateway.ports import Fleet, Releases
from understudy.cloud.late_releases import LateReleases
from understudy.cloud.log import EscalationLog
from understudy.cloud.rollout import Catalogue, Rollout
from understudy.cloud.rollout_book import RolloutBook
from understudy.cloud.server_certificate import FileCertificate, IssuedCertificate
from understudy.cloud.state import SharedState, SqliteState
from understudy.cloud.teacher import TeacherEngine
from understudy.cloud.teacher.factory import make_engine
from understudy.cloud.usage import FileBoard, RedisBoard, UsageBoard


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a cloud; tests hand in their own."""

    teacher: TeacherEngine
    log: EscalationLog
    state: SharedState
    releases: Releases
    fleet: Fleet
    enrolment: Enrolment
    board: UsageBoard
    cache: AnswerCache | None = None


def open_parts(
    config: CloudConfig,
    *,
    teacher: TeacherEngine | None = None,
    releases: Releases | None = None,
    fleet: Fleet | None = None,
    log: EscalationLog | None = None,
) -> Parts:
    """The parts that the configuration names; given ones replace its own.

    Raises:
        ConfigError: If a person must edit the configuration.
    """
    Path(config.state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    state = open_state(config)
    late = LateReleases(config.path(config.releases_dir))
    return Parts(
        teacher=teacher or open_teacher(config),
        log=log or open_log(config),
        state=state,
        releases=releases or late,
        fleet=fleet or open_rollout(config, late),
        enrolment=open_enrolment(config, state),
        board=open_board(config),
        cache=open_cache(config),
    )


def open_rollout(config: CloudConfig, catalogue: Catalogue) -> Rollout:
    """Who may have which release yet; remembered where the log is, by every gateway process."""
    return Rollout(open_rollout_book(config), catalogue, config.rollout)


def open_rollout_book(config: CloudConfig) -> RolloutBook:
    """What the rollout remembers: beside the log, so that who shares the log shares it."""
    match config.log.backend:
        case LogBackend.SQLITE:
            words = SqliteState(config.path("rollout.db"), power_safe=False)
            return RolloutBook(open_state(config), words)
        case LogBackend.REDIS:
            return RolloutBook(open_state(config), open_state(config))


def open_teacher(config: CloudConfig) -> TeacherEngine:
    """The teacher: in this process, or on Ray Serve where the file has a `serve` section."""
    if config.serve is None:
        return make_engine(config.teacher)
    from understudy.cloud.serve_client import ServeTeacher

    return ServeTeacher(config.teacher, config.serve)


def open_log(config: CloudConfig) -> EscalationLog:
    """The escalation log.

    Raises:
        ConfigError: If a person must edit the configuration, or change the Redis server's.
    """
    match config.log.backend:
        case LogBackend.SQLITE:
            from understudy.cloud.log.sqlite import SqliteLog

            return SqliteLog(config.path(config.log.path))
        case LogBackend.REDIS:
            from understudy.cloud.log.redis_streams import open_redis_log

            return open_redis_log(config.log.url, tenant=config.log.tenant)


def open_state(config: CloudConfig) -> SharedState:
    """What gateways share: beside the log, so that they share both or neither."""
    match config.log.backend:
        case LogBackend.SQLITE:
            return SqliteState(config.path("state.db"))
        case LogBackend.REDIS:
            from understudy.cloud.state_redis import RedisState

            return RedisState(config.log.url, tenant=config.log.tenant)


def open_enrolment(config: CloudConfig, state: SharedState) -> Enrolment:
    """The enrolment desk of a cloud, for the gateway and for `understudy node`."""
    authority = open_authority(
        config.path(config.tls.directory), trust_domain=config.gateway.trust_domain
    )
    return Enrolment(
        authority,
        state,
        trust_domain=config.gateway.trust_domain,
        node_days=config.tls.node_days,
        now=time.time,
    )


def open_board(config: CloudConfig) -> UsageBoard:
    """Where the processes that share a log tell each other what nodes used."""
    if config.log.backend is LogBackend.REDIS:
        return RedisBoard(config.log.url, tenant=config.log.tenant)
    return FileBoard(config.path("usage.db"))


def open_cache(config: CloudConfig) -> AnswerCache | None:
    """The exact cache; None when it is off."""
    cache = config.cache
    match cache.backend:
        case CacheBackend.OFF:
            return None
        case CacheBackend.MEMORY:
            return MemoryCache(max_entries=cache.max_entries, ttl_s=cache.ttl_s)
        case CacheBackend.REDIS:
            return RedisCache(cache.url, ttl_s=cache.ttl_s)


def open_certificate(config: CloudConfig) -> Callable[[], Credential]:
    """The certificate the gateway shows, asked anew with every handshake.

    Raises:
        ConfigError: If the operator's files cannot be used.
    """
    tls = config.tls
    if tls.certificate:
        return FileCertificate(config.path(tls.certificate), config.path(tls.key)).current
    authority = open_authority(config.path(tls.directory), trust_domain=config.gateway.trust_domain)
    names, days = config.gateway.names, tls.server_days
    return IssuedCertificate(lambda: authority.issue_server(names, days=days)).current
