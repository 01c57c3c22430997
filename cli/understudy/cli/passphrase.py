"""The passphrase of the publisher's keys: from the environment, never from the command line."""

from __future__ import annotations

import os

from understudy.types.errors import ConfigError

PASSPHRASE = "UNDERSTUDY_PASSPHRASE"  # noqa: S105 - the variable's name
NEW_PASSPHRASE = "UNDERSTUDY_NEW_PASSPHRASE"  # noqa: S105 - the variable's name


def passphrase() -> str:
    """The passphrase.

    Raises:
        ConfigError: If it is not set.
    """
    return _found(PASSPHRASE, "the passphrase of the publisher's keys")


def new_passphrase() -> str:
    """The passphrase that shall hold from now on.

    Raises:
        ConfigError: If it is not set.
    """
    return _found(NEW_PASSPHRASE, "the passphrase that the publisher's keys shall have")


def _found(variable: str, what: str) -> str:
    found = os.environ.get(variable, "")
    if not found:
        raise ConfigError(f"set {variable} to {what}")
    return found
