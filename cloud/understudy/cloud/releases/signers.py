"""A key that another program holds: `command:PROGRAM ARGUMENTS` signs what it reads.

The smallest interface to a key service: its own command line, in a script of two lines. The
program gets the bytes to sign on its standard input and writes the bare signature to its standard
output; the private key never comes here. What it has written is checked with the public key.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from understudy.types.errors import ConfigError

COMMAND = "command:"
_PATIENCE_S = 60.0
_MAX_SIGNATURE = 16_384


class CommandSigner(Signer):
    """Signs by a program of the operator; no shell is involved."""

    def __init__(self, command: str, public_key: Key, folder: Path) -> None:
        """Remembers the program; runs nothing.

        Args:
            command: Program and arguments, as one would type them.
            public_key: What its signatures are checked with.
            folder: Where it runs, so that it may be named relative to it.

        Raises:
            ConfigError: If no program is named.
        """
        self._command = shlex.split(command)
        if not self._command:
            raise ConfigError(f"name a program after '{COMMAND}' that signs its standard input")
        self._public_key = public_key
        self._folder = folder

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        """As `securesystemslib` wants it; the program runs in the present folder."""
        del secrets_handler  # a program asks for its own secrets
        return cls(priv_key_uri.removeprefix(COMMAND), public_key, Path())

    @property
    def public_key(self) -> Key:
        """What its signatures are checked with."""
        return self._public_key

    def sign(self, payload: bytes) -> Signature:
        """The program's signature over `payload`.

        Raises:
            ConfigError: If the program cannot be run, fails, takes longer than a minute, or
                writes what is no signature of this key.
        """
        name = self._command[0]
        try:
            done = subprocess.run(  # noqa: S603 - the publisher's own program, no shell
                self._command, input=payload, capture_output=True, cwd=self._folder,
                timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"the signing program {name} did not answer: {error}") from error
        if done.returncode or not 0 < len(done.stdout) <= _MAX_SIGNATURE:
            words = done.stderr.decode(errors="replace").strip()[-200:]
            raise ConfigError(f"the signing program {name} gave no signature: {words or 'no word'}")
        return Signature(self._public_key.keyid, done.stdout.hex())


def read_public_key(path: Path) -> Key:
    """A public key in PEM, as key services export it.

    Raises:
        ConfigError: If the file holds none of a kind that TUF knows.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"the public key {path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} holds no public key in PEM that can sign releases") from error
