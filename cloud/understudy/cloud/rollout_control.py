"""The console's buttons, carried out by the rollout."""

from __future__ import annotations

import time

from understudy.cloud.rollout import Rollout
from understudy.types.errors import AccessError, BundleError


class RolloutButtons:
    """Pauses and resumes the newest rollout of a task. Methods block."""

    def __init__(self, rollout: Rollout, task: str) -> None:
        self._rollout = rollout
        self._task = task

    def pause(self) -> str:
        """Offers the release to no further node.

        Raises:
            BundleError: If there is no rollout.
        """
        state = self._rollout.pause(self._task, self._channel(), time.time())
        return f"release {state.sequence} is offered to no further node"

    def resume(self) -> str:
        """Lets the share offered grow again.

        Raises:
            BundleError: If there is no rollout.
        """
        state = self._rollout.resume(self._task, self._channel(), time.time())
        return f"release {state.sequence} goes on to {state.channel}"

    def rollback(self) -> str:
        """Cannot be done from here: going back is a new release, and that takes the signing key.

        Raises:
            AccessError: Always; says which command does it.
        """
        raise AccessError(
            "this server cannot sign; pause here, then run 'understudy release rollback' where "
            "the publisher's key is"
        )

    def _channel(self) -> str:
        for view in self._rollout.rollouts(time.time()):
            if view.state.task == self._task:
                return view.state.channel
        raise BundleError(f"no release of '{self._task}' is on its way")
