"""Keeps the teacher up, and says whether it is; the gateway serves everything else meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from understudy.cloud.teacher import TeacherEngine
from understudy.types.errors import ConfigError, UnderstudyError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a teacher is watched.

    Attributes:
        check_every_s: Seconds between two checks of a teacher that is up.
        check_timeout_s: A check that takes longer has failed.
        restart_after: Failed checks in a row before it is started anew; its own supervisor, such
            as Ray Serve's, has had its chances by then.
        retry_s: Seconds before another try to start it, doubled up to `max_retry_s`.
        max_retry_s: Longest such wait.
    """

    check_every_s: float = 5.0
    check_timeout_s: float = 10.0
    restart_after: int = 12
    retry_s: float = 1.0
    max_retry_s: float = 60.0


class TeacherSupervisor:
    """Starts a teacher, watches it, and starts it anew when it stays away."""

    def __init__(
        self,
        teacher: TeacherEngine,
        tell: Callable[[bool], Awaitable[None]],
        *,
        patience: Patience | None = None,
        drain_s: float = 10.0,
    ) -> None:
        """Takes a teacher that is not started; `tell` hears whether it can work."""
        self._teacher = teacher
        self._tell = tell
        self._patience = patience or Patience()
        self._drain_s = drain_s
        self.up = False
        self.trouble = "the teacher has not come up yet"

    @contextlib.asynccontextmanager
    async def running(self, *, wait: bool) -> AsyncIterator[None]:
        """Keeps the teacher up beside the block.

        Args:
            wait: True to wait for it first, and to fail if a person must edit the configuration;
                False to begin without it and go on trying.

        Raises:
            ConfigError: If `wait` and the teacher cannot come up as configured.
        """
        if wait:
            await self._start()
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._teacher.stop(self._drain_s)

    async def _start(self) -> None:
        try:
            await self._teacher.start()
        except ConfigError:
            raise
        except UnderstudyError as error:
            await self._set(str(error))
        else:
            await self._set("")

    async def _watch(self) -> None:
        failures = 0
        while True:
            if not self.up and failures == 0:
                await self._start_until_up()
            await asyncio.sleep(self._patience.check_every_s)
            trouble = await self._check()
            await self._set(trouble)
            failures = failures + 1 if trouble else 0
            if failures >= self._patience.restart_after:
                _log.warning("the teacher stays away and is started anew: %s", trouble)
                await self._teacher.stop(0.0)
                failures = 0

    async def _start_until_up(self) -> None:
        wait_s = self._patience.retry_s
        while not self.up:
            try:
                await self._start()
            except UnderstudyError as error:
                _log.warning("the teacher does not come up: %s", error)
                await self._set(str(error))
            if not self.up:
                await asyncio.sleep(wait_s)
                wait_s = min(2.0 * wait_s, self._patience.max_retry_s)

    async def _check(self) -> str:
        """What is wrong with the teacher; empty when nothing is."""
        try:
            async with asyncio.timeout(self._patience.check_timeout_s):
                await self._teacher.health()
        except TimeoutError:
            return f"the teacher did not answer a check in {self._patience.check_timeout_s:g} s"
        except UnderstudyError as error:
            return str(error)
        return ""

    async def _set(self, trouble: str) -> None:
        if trouble and self.up:
            _log.warning("the teacher is away: %s", trouble)
        self.trouble = trouble
        self.up = not trouble
        await self._tell(self.up)
