"""Who may sign: keys in files under a passphrase by default, a key management service by its URI.

Signing goes through `securesystemslib.signer.Signer`, so that cloud services, hardware modules and
Vault work by naming their URI in `keys.json`; this module adds the files under a passphrase.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from understudy.cloud.releases.disk import write_atomic
from understudy.types.errors import ConfigError

_SEALED = "sealed-file:"
_INDEX = "keys.json"


class KeyRing(Protocol):
    """Gives signers by the name of a TUF role."""

    def keys(self, role: str) -> list[Key]:
        """The public keys of a role."""
        ...

    def signers(self, role: str) -> list[Signer]:
        """Those that can sign for a role now.

        Raises:
            ConfigError: If a passphrase is wrong or a key cannot be reached.
        """
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
        if passphrase == "":
            raise ConfigError("an empty passphrase protects nothing; name one")
        self.folder = folder
        self._passphrase = passphrase.encode() if passphrase is not None else None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def generate(self, role: str) -> Key:
        """Makes an Ed25519 key for a role and stores it."""
        private = Ed25519PrivateKey.generate()
        key = SSlibKey.from_crypto(private.public_key())
        name = f"{role}-{key.keyid[:12]}.pem"
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption())
        write_atomic(self.folder / name, pem, mode=0o600)
        self.add(role, f"{_SEALED}{name}", key)
        return key

    def add(self, role: str, uri: str, key: Key) -> None:
        """Lists a key that lies elsewhere, for example `awskms:alias/understudy-targets`."""
        index = self._index()
        index.setdefault(role, []).append({"keyid": key.keyid, "uri": uri, "key": key.to_dict()})
        data = json.dumps(index, indent=1, sort_keys=True).encode()
        write_atomic(self.folder / _INDEX, data, mode=0o600)

    def forget(self, role: str, keyid: str) -> None:
        """Takes a key off the list; its file, if it has one, is removed."""
        index = self._index()
        for entry in [e for e in index.get(role, []) if e["keyid"] == keyid]:
            index[role].remove(entry)
            if entry["uri"].startswith(_SEALED):
                (self.folder / entry["uri"].removeprefix(_SEALED)).unlink(missing_ok=True)
        write_atomic(self.folder / _INDEX, json.dumps(index, indent=1).encode(), mode=0o600)

    def keys(self, role: str) -> list[Key]:
        """The public keys of a role."""
        return [self._public(entry) for entry in self._index().get(role, [])]

    def signers(self, role: str) -> list[Signer]:
        """Those that can sign for a role now.

        Raises:
            ConfigError: If the passphrase is wrong or a key cannot be reached.
        """
        return [self._signer(entry) for entry in self._index().get(role, [])]

    def _signer(self, entry: dict[str, Any]) -> Signer:
        uri, public = entry["uri"], self._public(entry)
        if not uri.startswith(_SEALED):
            return Signer.from_priv_key_uri(uri, public)
        path = self.folder / uri.removeprefix(_SEALED)
        try:
            private = load_pem_private_key(path.read_bytes(), self._passphrase)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the passphrase does not open the key {path.name}") from error
        except OSError as error:
            raise ConfigError(f"the key {path} cannot be read: {error.strerror}") from error
        return CryptoSigner(private, public)  # type: ignore[arg-type]  # only Ed25519 is written

    def _public(self, entry: dict[str, Any]) -> Key:
        return Key.from_dict(entry["keyid"], dict(entry["key"]))

    def _index(self) -> dict[str, list[dict[str, Any]]]:
        path = self.folder / _INDEX
        if not path.exists():
            return {}
        index: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
        return index

    def _encryption(self) -> KeySerializationEncryption:
        if self._passphrase is None:
            return NoEncryption()
        return BestAvailableEncryption(self._passphrase)
