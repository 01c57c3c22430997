"""The passphrase of the publisher's keys: from the environment, never from the command line."""

from __future__ import annotations

import os

from understudy.types.errors import ConfigError

PASSPHRASE = "UNDERSTUDY_PASSPHRASE"  # noqa: S105 - the variable's name


def passphrase() -> str:
    """The passphrase.

    Raises:
        ConfigError: If it is not set.
    """
    found = os.environ.get(PASSPHRASE, "")
    if not found:
        raise ConfigError(f"set {PASSPHRASE} to the passphrase of the publisher's keys")
    return found
