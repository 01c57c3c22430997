"""Who may sign: keys in files under a passphrase by default, a key management service by its URI.

Signing goes through `securesystemslib.signer.Signer`, so that cloud services, hardware modules and
Vault work by naming their URI in `keys.json`; this module adds the files under a passphrase, and
`signers.py` any program that signs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from understudy.cloud.releases.signers import COMMAND, CommandSigner
from understudy.files import write_atomic
from understudy.types.errors import ConfigError

_SEALED = "sealed-file:"
_INDEX = "keys.json"
_MEMORY = "signed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a publisher has signed last: version of the targets, and sequence of the releases."""

    targets: int = 0
    sequence: int = 0


class KeyRing(Protocol):
    """Gives signers by the name of a TUF role."""

    def keys(self, role: str) -> list[Key]:
        """The public keys of a role."""
        ...

    def signers(self, role: str, keyids: Collection[str] | None = None) -> list[Signer]:
        """Those that can sign for a role now; of the named keys only, where some are named.

        Raises:
            ConfigError: If a passphrase is wrong or a key cannot be reached.
        """
        ...

    def last_signed(self) -> Signed:
        """What was signed with this ring last."""
        ...

    def note_signed(self, signed: Signed) -> None:
        """Remembers what is signed, away from the server's disk."""
        ...


class FolderKeyRing:
    """Keys listed in `<folder>/keys.json`, private parts in files beside it or in a service.

    Attributes:
        folder: Where the list lies; readable by its owner only.
    """

    def __init__(self, folder: Path, passphrase: str | None) -> None:
        """Remembers where the keys lie; opens none.

        Args:
            folder: The folder, made when missing.
            passphrase: Opens the private keys; None for keys kept open, as a server must keep its
                own to sign without a person.
        """
        self.folder = folder
        self._passphrase = _checked(passphrase)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def generate(self, role: str) -> Key:
        """Makes an Ed25519 key for a role and stores it."""
        private = Ed25519PrivateKey.generate()
        key = SSlibKey.from_crypto(private.public_key())
        name = f"{role}-{key.keyid[:12]}.pem"
        write_atomic(self.folder / name, _seal(private, self._passphrase))
        self.add(role, f"{_SEALED}{name}", key)
        return key

    def add(self, role: str, uri: str, key: Key) -> None:
        """Lists a key that lies elsewhere, for example `awskms:alias/understudy-targets`."""
        index = self._index()
        index.setdefault(role, []).append({"keyid": key.keyid, "uri": uri, "key": key.to_dict()})
        self._write(index)

    def forget(self, role: str, keyid: str) -> None:
        """Takes a key off the list; its file, if it has one, is removed."""
        index = self._index()
        gone = [e for e in index.get(role, []) if e["keyid"] == keyid]
        index[role] = [e for e in index.get(role, []) if e["keyid"] != keyid]
        self._write(index)
        self._remove_files(gone)

    def reseal(self, passphrase: str) -> int:
        """Puts every key that has a file here under another passphrase; returns how many.

        The list changes in one rename: after a cut, either passphrase opens all of them.

        Raises:
            ConfigError: If the present passphrase does not open one, or the new one is empty.
        """
        secret, index, old = _checked(passphrase), self._index(), []
        for entry in [e for entries in index.values() for e in entries if self._is_here(e)]:
            name = entry["uri"].removeprefix(_SEALED)
            copy = f"{name.partition('.')[0]}.{os.urandom(4).hex()}.pem"
            write_atomic(self.folder / copy, _seal(self._private(name), secret))
            old.append(dict(entry))
            entry["uri"] = f"{_SEALED}{copy}"
        self._write(index)
        self._passphrase = secret
        self._remove_files(old)
        return len(old)

    def keys(self, role: str) -> list[Key]:
        """The public keys of a role."""
        return [self._public(entry) for entry in self._index().get(role, [])]

    def signers(self, role: str, keyids: Collection[str] | None = None) -> list[Signer]:
        """Those that can sign for a role now; of the named keys only, where some are named.

        A key whose file is not here is passed over: people keep root keys in different places,
        and a threshold of them is enough.

        Raises:
            ConfigError: If the passphrase is wrong or a key cannot be reached.
        """
        entries = self._index().get(role, [])
        wanted = [e for e in entries if keyids is None or e["keyid"] in keyids]
        return [self._signer(e) for e in wanted if self._is_here(e) or not _is_sealed(e)]

    def last_signed(self) -> Signed:
        """What was signed with this ring last.

        Raises:
            ConfigError: If the note of it cannot be read.
        """
        path = self.folder / _MEMORY
        try:
            return msgspec.json.decode(path.read_bytes(), type=Signed)
        except FileNotFoundError:
            return Signed()
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path} cannot be read; bring it back from a copy") from error

    def note_signed(self, signed: Signed) -> None:
        """Remembers what is signed, away from the server's disk."""
        write_atomic(self.folder / _MEMORY, msgspec.json.encode(signed))

    def _signer(self, entry: dict[str, Any]) -> Signer:
        uri, public = entry["uri"], self._public(entry)
        if _is_sealed(entry):
            private = self._private(uri.removeprefix(_SEALED))
            return CryptoSigner(private, public)  # type: ignore[arg-type]  # what Ed25519 has
        if uri.startswith(COMMAND):
            return CommandSigner(uri.removeprefix(COMMAND), public, self.folder)
        try:
            return Signer.from_priv_key_uri(uri, public)
        except (ValueError, UnsupportedLibraryError, OSError) as error:
            raise ConfigError(f"the key {uri} cannot be used: {error}") from error

    def _private(self, name: str) -> Ed25519PrivateKey:
        path = self.folder / name
        try:
            private = load_pem_private_key(path.read_bytes(), self._passphrase)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the passphrase does not open the key {path.name}") from error
        except OSError as error:
            raise ConfigError(f"the key {path} cannot be read: {error.strerror}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(f"the key {path.name} is not an Ed25519 key, as are all made here")
        return private

    def _is_here(self, entry: dict[str, Any]) -> bool:
        return _is_sealed(entry) and (self.folder / entry["uri"].removeprefix(_SEALED)).is_file()

    def _remove_files(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if _is_sealed(entry):
                (self.folder / entry["uri"].removeprefix(_SEALED)).unlink(missing_ok=True)

    def _write(self, index: dict[str, list[dict[str, Any]]]) -> None:
        data = json.dumps(index, indent=1, sort_keys=True).encode()
        write_atomic(self.folder / _INDEX, data)

    def _public(self, entry: dict[str, Any]) -> Key:
        return Key.from_dict(entry["keyid"], dict(entry["key"]))

    def _index(self) -> dict[str, list[dict[str, Any]]]:
        path = self.folder / _INDEX
        if not path.exists():
            return {}
        index: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
        return index


def _checked(passphrase: str | None) -> bytes | None:
    if passphrase == "":
        raise ConfigError("an empty passphrase protects nothing; name one")
    return None if passphrase is None else passphrase.encode()


def _seal(private: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    sealed = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)


def _is_sealed(entry: dict[str, Any]) -> bool:
    return str(entry["uri"]).startswith(_SEALED)
