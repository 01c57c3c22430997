"""Starting or joining Ray, for the teacher's replicas and for a night's workers."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from understudy.types.errors import ConfigError

_log = logging.getLogger(__name__)

TRIES = 3
# Ray reads these when it is first imported or started; an operator's own values win.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's own value, 15, is for batch work: on a machine that has anything else to do, a replica
    # that somebody waits for would come last.
    "RAY_worker_niceness": "0",
    # How long a busy replica may take to say how busy it is; after 0.1 s, Serve's own value, a
    # loaded machine is asked again and again.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",
    # Handle and replica work in the event loop they are called from: two changes of thread less
    # on each side of a call, a third of its time. Neither of ours ever blocks its loop.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """The Ray this process uses.

    Attributes:
        address: `auto` or `HOST:PORT` of a running cluster; empty starts one here.
        namespace: Keeps this cloud's actors apart from others on the cluster.
        cpus: Logical processors of a cluster started here; 0 for as many as the machine has.
        object_store_mb: Its shared memory. Ours carries no large objects.
        temp_dir: Its folder; keep the path short, sockets lie in it. Empty for Ray's own.
    """

    address: str = ""
    namespace: str = "understudy"
    cpus: int = 0
    object_store_mb: int = 128
    temp_dir: str = ""


def start_ray(
    options: RayOptions,
    begin: Callable[[RayOptions], None] | None = None,
    *,
    setting: str = "serve.ray",
) -> None:
    """Starts or joins a Ray cluster, with small settings that are all explicit.

    A cluster of one's own is tried three times: Ray gives each of its processes half a minute to
    come up, which a busy machine or a cold disk can miss, and no setting of Ray's raises that.

    Args:
        options: Which Ray.
        begin: One try; Ray's own when omitted.
        setting: Where the user wrote the options, for messages.

    Raises:
        ConfigError: If there is no cluster at the address, or none comes up here.
    """
    prepare_environment()
    attempt = begin or _begin_ray
    for tries_left in reversed(range(TRIES)):
        try:
            return attempt(options)
        except (ConnectionError, ValueError) as error:
            raise _no_ray(setting, error) from error
        except Exception as error:
            # Ray says that its processes were late with an exception of no type of its own.
            if options.address:
                raise _no_ray(setting, error) from error
            if not tries_left:
                raise _never_up(setting, error) from error
            _log.warning("Ray did not come up, it is started once more: %s", error)
            _clear_away(error)
    return None


def _clear_away(error: Exception) -> None:
    """Ends the processes of a start that failed.

    Ray leaves them there, beside those of the next start, and hands out nothing to end them by;
    what began them is still in the error's frames.
    """
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)


def _never_up(setting: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{setting}: Ray did not come up in {TRIES} tries: {error}; "
        f"give the machine less to do, or name a running cluster in {setting}.address"
    )


def _no_ray(setting: str, error: Exception) -> ConfigError:
    return ConfigError(f"{setting}: Ray could not be started or joined: {error}")


def _begin_ray(options: RayOptions) -> None:
    import ray

    common: dict[str, Any] = {
        "namespace": options.namespace,
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    if options.address:
        ray.init(address=options.address, **common)
        return
    ray.init(
        num_cpus=options.cpus or None,
        num_gpus=None,
        include_dashboard=False,
        object_store_memory=options.object_store_mb << 20,
        _temp_dir=options.temp_dir or None,
        **common,
    )


def prepare_environment() -> None:
    """Sets what Ray reads at import, unless the operator has."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
