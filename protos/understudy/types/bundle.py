"""The rules of a bundle: what its manifest says, and when its files may be used.

A bundle is one student as shipped. Its id is the sha256 of its manifest's bytes; the manifest names
every file with digest and size. Bytes in, verdict out: reading and writing live in `edge.bundle`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from understudy.types.errors import BundleError, DigestError, InvalidValueError

FORMAT = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
HEAD = "head.npz"
TOKENIZER = "tokenizer.json"
CALIBRATION = "calibration.json"
CERTIFICATE = "certificate.json"
GOLDEN = "golden.json"
EMBEDDINGS = "embeddings.npz"
"""Takes the encoder's place in a `static` bundle."""
REQUIRED = (ENCODER, HEAD, TOKENIZER, CALIBRATION, CERTIFICATE, GOLDEN)
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 4 << 30

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle: sha256 in lower-case hex, and size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.sha256):
            raise InvalidValueError("a file's sha256 must be 64 lower-case hex digits")
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise InvalidValueError(f"a file's size must lie in [0, {MAX_FILE_BYTES}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a bundle comes from.

    Attributes:
        recipe: Name and digest of the recipe.
        teacher: Id of the teacher whose labels it learned.
        data: Digest by name of every data set used.
        software: Version by name of what made it.
        night: Date or name of the run.
    """

    recipe: str = ""
    teacher: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    night: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        task: Name of the task.
        labels: Class names; position is the class's index in the head.
        files: Entry by file name.
        max_tokens: Longest input the encoder reads, in tokens.
        vector_size: Length of the sentence vector.
        runtime: `onnx`, or `static` for an embedding bag without a graph.
        cpu: CPU class the encoder was made for: `portable` or a flag such as `avx512_vnni`.
        parent: Id of the champion it grew from; empty for a first student.
        created_unix_s: When, seconds since 1970.
        lineage: Where it comes from.
        format: Version of this format.
        minimum_client: Oldest client version that can read it.
    """

    task: str
    labels: tuple[str, ...]
    files: Mapping[str, FileEntry]
    max_tokens: int
    vector_size: int
    runtime: str = "onnx"
    cpu: str = "portable"
    parent: str = ""
    created_unix_s: float = 0.0
    lineage: Lineage = field(default_factory=Lineage)
    format: int = FORMAT
    minimum_client: str = "0.1.0"

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise InvalidValueError("a bundle needs at least two labels, each named once")
        for name in self.files:
            if not _NAME.fullmatch(name) or name == MANIFEST:
                raise InvalidValueError(f"'{name}' may not be the name of a bundle's file")


def encode_manifest(manifest: Manifest) -> bytes:
    """Writes the canonical bytes: sorted keys, no spaces, UTF-8; `decode_manifest` reads them."""
    plain = asdict(manifest)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def decode_manifest(data: bytes) -> Manifest:
    """Reads a manifest.

    Raises:
        BundleError: If the bytes are no manifest this version can use.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        plain: Any = json.loads(data)
        version = plain.get("format") if isinstance(plain, dict) else None
        if version != FORMAT:
            raise BundleError(f"this client reads bundle format {FORMAT}, not {version!r}")
        manifest = msgspec.convert(plain, Manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest cannot be read: {error}") from error
    missing = [name for name in required_files(manifest.runtime) if name not in manifest.files]
    if missing:
        raise BundleError(f"the manifest names no {', '.join(missing)}")
    return manifest


def required_files(runtime: str) -> tuple[str, ...]:
    """Names of the files without which a bundle of this runtime is none.

    Raises:
        BundleError: If this version knows no such runtime.
    """
    if runtime not in {"onnx", "static"}:
        raise BundleError(f"the manifest asks for the runtime '{runtime}'; known: onnx, static")
    if runtime == "onnx":
        return REQUIRED
    return (EMBEDDINGS, *REQUIRED[1:])


def bundle_id(manifest_bytes: bytes) -> str:
    """The content address: sha256 of the manifest's bytes, in hex."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def check_file(name: str, data: bytes, entry: FileEntry) -> bytes:
    """Returns `data` if it is what the manifest promised.

    Raises:
        DigestError: If length or digest differ.
    """
    if len(data) != entry.size:
        raise DigestError(f"{name} has {len(data)} bytes, the manifest says {entry.size}")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DigestError(f"{name} does not have the digest that was signed for it")
    return data
