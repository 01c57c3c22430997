"""The gateway's side of Ray Serve: a `TeacherEngine` whose work is done by replicas.

One handle call carries a whole batch. Ray's failures become ours: a full queue asks for patience,
lateness is a deadline, a lost replica is a link that is down. Nothing here raises for one batch.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from understudy.cloud.serve_app import Replica, application
from understudy.cloud.serve_options import RayOptions, ServeOptions
from understudy.cloud.teacher import GenerateRequest, Generation, ScoreRequest, TeacherInfo
from understudy.cloud.teacher.payload import (
    Plain,
    generation_from_plain,
    label_from_plain,
    request_to_plain,
)
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.types.errors import (
    ConfigError,
    DeadlineError,
    InvalidValueError,
    LinkDownError,
    OverloadedError,
    TeacherError,
    UnderstudyError,
)
from understudy.types.records import TeacherLabel

_log = logging.getLogger(__name__)

Request = TypeVar("Request", ScoreRequest, GenerateRequest)
Result = TypeVar("Result", TeacherLabel, Generation)

# Ray reads these when it is first imported or started; an operator's own values win.
RAY_TRIES = 3
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's own value, 15, is for batch work: on a machine that has anything else to do, a replica
    # that somebody waits for would come last.
    "RAY_worker_niceness": "0",
    # How long a busy replica may take to say how busy it is; after 0.1 s, Serve's own value, a
    # loaded machine is asked again and again.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",
}


class ServeTeacher:
    """A `TeacherEngine` on Ray Serve.

    Args:
        spec: The teacher.
        options: How it is served.
        deployment: The class a replica runs.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        options: ServeOptions | None = None,
        *,
        deployment: type[Any] = Replica,
    ) -> None:
        self._spec = spec
        self._options = options or ServeOptions()
        self._deployment = deployment
        self._handle: Any = None
        self._owns_ray = False
        self._info = TeacherInfo(id="", engine=str(spec.engine), labels=spec.labels)

    def info(self) -> TeacherInfo:
        """As the replica says; its id is empty before `start`."""
        return self._info

    async def start(self) -> None:
        """Starts or joins Ray, deploys the teacher, waits for a replica.

        Raises:
            ConfigError: If Ray is not installed or refuses, or the replica cannot start.
        """
        await asyncio.to_thread(self._connect)
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                await asyncio.to_thread(self._deploy)
                plain = await self._handle.info.remote()
        except TimeoutError as error:
            raise ConfigError(
                f"the teacher did not come up within {self._options.start_timeout_s:g} s; "
                "raise serve.start_timeout_s or look at the replica's log"
            ) from error
        self._info = TeacherInfo(**plain | {"labels": tuple(plain["labels"])})

    async def score_labels(
        self, requests: Sequence[ScoreRequest]
    ) -> list[TeacherLabel | UnderstudyError]:
        """One handle call for the whole batch."""
        return await self._call("score_labels", requests, label_from_plain)

    async def generate(
        self, requests: Sequence[GenerateRequest]
    ) -> list[Generation | UnderstudyError]:
        """One handle call for the whole batch."""
        return await self._call("generate", requests, generation_from_plain)

    async def health(self) -> None:
        """Returns if a replica answers within the health timeout.

        Raises:
            TeacherError: If none does.
        """
        error = await self._attempt(self._ask_health, self._options.health_timeout_s)
        if isinstance(error, UnderstudyError):
            raise TeacherError(f"no replica of the teacher answers: {error}") from error

    async def stop(self, drain_s: float = 0.0) -> None:
        """Takes the application down, and Ray too if it was started here."""
        del drain_s  # the deployment's own drain_s holds
        if self._handle is not None:
            self._handle = None
            await asyncio.to_thread(self._disconnect)

    async def _call(
        self,
        method: str,
        requests: Sequence[Request],
        read: Callable[[Plain], Result | UnderstudyError],
    ) -> list[Result | UnderstudyError]:
        if not requests:
            return []
        latest = max(request.deadline_unix_s for request in requests)
        budget = min(latest - time.time(), self._spec.timeout_s)
        payload = [request_to_plain(request) for request in requests]
        outcome = await self._attempt(functools.partial(self._ask, method, payload), budget)
        if isinstance(outcome, UnderstudyError):
            return [outcome] * len(requests)
        return [read(plain) for plain in outcome]

    async def _ask(self, method: str, payload: list[Plain]) -> list[Plain]:
        plain: list[Plain] = await getattr(self._handle, method).remote(payload)
        return plain

    async def _ask_health(self) -> list[Plain]:
        await self._handle.check_health.remote()
        return []

    async def _attempt(
        self, ask: Callable[[], Awaitable[list[Plain]]], budget_s: float
    ) -> list[Plain] | UnderstudyError:
        if self._handle is None:
            return LinkDownError("the teacher has not come up yet")
        if budget_s <= 0.0:
            return DeadlineError("the deadline passed before the teacher was asked")
        try:
            # A cancelled await cancels the call in the replica too.
            async with asyncio.timeout(budget_s):
                return await ask()
        except TimeoutError:
            return DeadlineError(f"the teacher did not answer within {budget_s:.3f} s")
        except Exception as error:  # noqa: BLE001 - ray raises the replica's own exception types
            return our_error(error, self._options.retry_after_s)

    def _connect(self) -> None:
        prepare_environment()
        try:
            import ray
            from ray import serve
        except ImportError as error:
            raise ConfigError("Ray Serve is missing: pip install 'understudy[cloud]'") from error
        if not ray.is_initialized():
            start_ray(self._options.ray)
            self._owns_ray = not self._options.ray.address
        # Before `serve.run`, which would otherwise start an HTTP proxy on every node.
        serve.start(proxy_location="Disabled")

    def _deploy(self) -> None:
        from ray import serve
        from ray.serve.exceptions import RayServeException

        name = self._options.app
        try:
            if self._options.deploy:
                bound = application(self._spec, self._options, self._deployment)
                self._handle = serve.run(bound, name=name, route_prefix=None)
            else:
                self._handle = serve.get_app_handle(name)
        except (RayServeException, RuntimeError) as error:
            reason = _deploy_failure(name) or str(error)
            raise ConfigError(f"the teacher could not be served: {reason}") from error

    def _disconnect(self) -> None:
        import ray
        from ray import serve

        if self._options.deploy:
            serve.delete(self._options.app)
        if self._owns_ray:
            serve.shutdown()
            ray.shutdown()


def start_ray(options: RayOptions, begin: Callable[[RayOptions], None] | None = None) -> None:
    """Starts or joins a Ray cluster, with small settings that are all explicit.

    A cluster of one's own is tried three times: Ray gives each of its processes half a minute to
    come up, which a busy machine or a cold disk can miss, and no setting of Ray's raises that.

    Args:
        options: Which Ray.
        begin: One try; Ray's own when omitted.

    Raises:
        ConfigError: If there is no cluster at the address, or none comes up here.
    """
    prepare_environment()
    attempt = begin or _begin_ray
    for tries_left in reversed(range(RAY_TRIES)):
        try:
            return attempt(options)
        except (ConnectionError, ValueError) as error:
            raise _no_ray(error) from error
        except Exception as error:
            # Ray says that its processes were late with an exception of no type of its own.
            if options.address:
                raise _no_ray(error) from error
            if not tries_left:
                raise _never_up(error) from error
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


def _never_up(error: Exception) -> ConfigError:
    return ConfigError(
        f"serve.ray: Ray did not come up in {RAY_TRIES} tries: {error}; "
        "give the machine less to do, or name a running cluster in serve.ray.address"
    )


def _no_ray(error: Exception) -> ConfigError:
    return ConfigError(f"serve.ray: Ray could not be started or joined: {error}")


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
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def our_error(error: BaseException, retry_after_s: float) -> UnderstudyError:
    """Which of our errors a failure of Ray is.

    Args:
        error: What awaiting a handle raised.
        retry_after_s: Patience asked for when Ray does not say.
    """
    from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(error, BackPressureError):
        patience = error.retry_after_s or retry_after_s
        return OverloadedError("more calls wait for the teacher than may wait", patience)
    if isinstance(error, RayActorError | DeploymentUnavailableError | TaskCancelledError):
        return LinkDownError(f"the teacher's replica was lost: {type(error).__name__}")
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, UnderstudyError):
        return cause
    if isinstance(cause, ValueError):
        return InvalidValueError(str(cause))
    return TeacherError(f"the teacher's replica failed: {cause!r}")


def _deploy_failure(app: str) -> str:
    """Serve's own last words about an application: the end of the replica's traceback."""
    from ray import serve

    status = serve.status().applications.get(app)
    if status is None:
        return ""
    words = [status.message, *(one.message for one in status.deployments.values())]
    lines = [line.strip() for text in words for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if "Error: " in line]
    return (ours or lines or [""])[-1]
