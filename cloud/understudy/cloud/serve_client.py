"""The gateway's side of Ray Serve: a `TeacherEngine` whose work is done by replicas.

One handle call carries a whole batch. Ray's failures become ours: a full queue asks for patience,
lateness is a deadline, a lost replica is a link that is down. Nothing here raises for one batch.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from understudy.cloud.ray_start import prepare_environment, start_ray
from understudy.cloud.serve_app import Replica, application
from understudy.cloud.serve_options import ServeOptions
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

Request = TypeVar("Request", ScoreRequest, GenerateRequest)
Result = TypeVar("Result", TeacherLabel, Generation)


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
