"""The enrolment desk, opened by a cloud's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.cloud.enrolment import Enrolment


@contextmanager
def enrolment_of(path: Path) -> Iterator[Enrolment]:
    """The enrolment desk of a cloud's configuration."""
    from understudy.cloud.config import load_config
    from understudy.cloud.parts import open_enrolment, open_state

    config = load_config(path)
    Path(config.state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    state = open_state(config)
    try:
        yield open_enrolment(config, state)
    finally:
        state.close()
