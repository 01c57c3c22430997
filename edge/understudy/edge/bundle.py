"""Reading and writing a bundle: one student as shipped, every byte hashed before it is used.

The rules live in `types.bundle`, the bytes of the parts in `edge.parts`. What `read_bundle` returns
holds verified bytes only: nothing is opened a second time between check and use, so nobody can swap
a file in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from understudy.edge.cpu import best_of, cpu_flags, runs_on
from understudy.edge.graph import GraphSummary, inspect_graph
from understudy.edge.parts import (
    GoldenVector,
    Head,
    decode_calibration,
    decode_certificate,
    decode_golden,
    decode_head,
    encode_calibration,
    encode_certificate,
    encode_embeddings,
    encode_golden,
    encode_head,
)
from understudy.files import read_bounded, write_atomic
from understudy.types.bundle import (
    CALIBRATION,
    CERTIFICATE,
    ENCODER,
    GOLDEN,
    HEAD,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Lineage,
    Manifest,
    bundle_id,
    check_file,
    decode_manifest,
    encode_manifest,
)
from understudy.types.contract import Calibration, Certificate
from understudy.types.errors import BundleError

__all__ = [
    "Bundle",
    "GoldenVector",
    "Head",
    "assemble",
    "cpu_flags",
    "decode_calibration",
    "decode_certificate",
    "decode_golden",
    "decode_head",
    "encode_calibration",
    "encode_certificate",
    "encode_embeddings",
    "encode_golden",
    "encode_head",
    "read_bundle",
    "runs_on",
    "variant_name",
    "write_bundle",
]

_VARIANT_PARTS = (ENCODER, GOLDEN, CALIBRATION, CERTIFICATE)


@dataclass(frozen=True)
class Bundle:
    """One student, verified.

    Attributes:
        id: sha256 of the manifest's bytes.
        manifest: What it says of itself.
        files: Verified bytes by file name.
        cpu: CPU class or flag of the variant chosen by `for_cpu`; else the manifest's `cpu`.
    """

    id: str
    manifest: Manifest
    files: Mapping[str, bytes]
    cpu: str = "portable"

    @cached_property
    def head(self) -> Head:
        """The linear head and its prototypes."""
        return decode_head(self.files[HEAD])

    @cached_property
    def calibration(self) -> Calibration:
        """How numbers become a confidence."""
        return decode_calibration(self.files[CALIBRATION])

    @cached_property
    def certificate(self) -> Certificate:
        """What was proved about this student."""
        return decode_certificate(self.files[CERTIFICATE])

    @cached_property
    def golden(self) -> tuple[GoldenVector, ...]:
        """Raw texts with the logits they must give."""
        return decode_golden(self.files[GOLDEN])

    @cached_property
    def graph(self) -> GraphSummary:
        """What the encoder graph is made of; empty for a static student."""
        if self.manifest.runtime == "static":
            return GraphSummary(frozenset())
        return inspect_graph(self.files[ENCODER])

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """CPU classes or flags that a whole variant is here for, in alphabetical order."""
        found = (name.split(".") for name in self.files if name.startswith("encoder."))
        cpus = sorted(parts[1] for parts in found if len(parts) == 3 and parts[2] == "onnx")
        return tuple(
            cpu
            for cpu in cpus
            if all(variant_name(name, cpu) in self.files for name in _VARIANT_PARTS)
        )

    def for_cpu(self, flags: AbstractSet[str]) -> Bundle:
        """This bundle with the encoder made for a CPU with these flags, if it carries one.

        A variant `encoder.<cpu>.onnx` counts only with its own golden vectors, calibration and
        certificate: the same file answers differently on other instructions.
        """
        cpu = best_of(self.variants, flags)
        return self._variant(cpu) if cpu in self.variants else self

    def without_variants(self) -> Bundle:
        """The portable student alone: what a machine without any of the flags would run."""
        names = {variant_name(name, cpu) for name in _VARIANT_PARTS for cpu in self.variants}
        files = {name: data for name, data in self.files.items() if name not in names}
        return Bundle(self.id, self.manifest, files, self.manifest.cpu)

    def without_files(self) -> Bundle:
        """The same bundle without its bytes, for who only needs to know what is loaded."""
        light = replace(self, files={})
        for part in ("calibration", "certificate"):
            light.__dict__[part] = getattr(self, part)
        return light

    def check(self) -> None:
        """Parses every part, of the variants, too, and compares their shapes.

        Raises:
            BundleError: If a part cannot be read or does not fit the others.
        """
        self._check_parts()
        for cpu in self.variants:
            try:
                self._variant(cpu)._check_parts()  # noqa: SLF001 - another bundle
            except BundleError as error:
                raise BundleError(f"the variant for {cpu}: {error}") from error

    def _check_parts(self) -> None:
        classes, size = len(self.manifest.labels), self.manifest.vector_size
        if self.head.weight.shape != (classes, size):
            raise BundleError(
                f"the head has shape {self.head.weight.shape}, the manifest says {(classes, size)}"
            )
        if any(len(vector.logits) != classes for vector in self.golden):
            raise BundleError(f"golden vectors must have {classes} logits each")
        _ = self.calibration, self.certificate, self.graph

    def _variant(self, cpu: str) -> Bundle:
        chosen = {name: self.files[variant_name(name, cpu)] for name in _VARIANT_PARTS}
        return replace(self, files={**self.files, **chosen}, cpu=cpu)


def read_bundle(directory: Path | str) -> Bundle:
    """Reads and verifies a bundle's directory.

    Raises:
        BundleError: If a file is missing, unreadable or not what the manifest says; nothing of the
            bundle may be used then.
    """
    folder = Path(directory)
    manifest_bytes = _read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    manifest = decode_manifest(manifest_bytes)
    files = {name: _read(folder, name, entry.size) for name, entry in manifest.files.items()}
    return assemble(manifest_bytes, files)


def assemble(manifest_bytes: bytes, files: Mapping[str, bytes]) -> Bundle:
    """Puts a bundle together from bytes, each checked against the manifest.

    Raises:
        BundleError: If a file is missing, differs from its digest, or does not fit the others.
    """
    manifest = decode_manifest(manifest_bytes)
    missing = sorted(set(manifest.files) - set(files))
    if missing:
        raise BundleError(f"the bundle lacks {', '.join(missing)}")
    checked = {name: check_file(name, files[name], entry) for name, entry in manifest.files.items()}
    bundle = Bundle(bundle_id(manifest_bytes), manifest, checked, manifest.cpu)
    bundle.check()
    return bundle


def write_bundle(  # noqa: PLR0913 - one argument per field of the manifest
    directory: Path | str,
    *,
    task: str,
    labels: tuple[str, ...],
    max_tokens: int,
    vector_size: int,
    files: Mapping[str, bytes],
    runtime: str = "onnx",
    cpu: str = "portable",
    parent: str = "",
    created_unix_s: float = 0.0,
    lineage: Lineage | None = None,
) -> str:
    """Writes a bundle and returns its id; equal arguments give equal bytes.

    The manifest is written last, so a half-written directory is never a bundle.

    Raises:
        BundleError: If the parts do not make a bundle; nothing is written then.
        OSError: If the disk refuses.
    """
    manifest = Manifest(
        task=task,
        labels=tuple(labels),
        files={
            name: FileEntry(sha256(data).hexdigest(), len(data)) for name, data in files.items()
        },
        max_tokens=max_tokens,
        vector_size=vector_size,
        runtime=runtime,
        cpu=cpu,
        parent=parent,
        created_unix_s=created_unix_s,
        lineage=lineage or Lineage(),
    )
    manifest_bytes = encode_manifest(manifest)
    bundle = assemble(manifest_bytes, files)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data, mode=0o644)
    write_atomic(folder / MANIFEST, manifest_bytes, mode=0o644)
    return bundle.id


def _read(folder: Path, name: str, limit: int) -> bytes:
    try:
        data = read_bounded(folder / name, limit)
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise BundleError(f"{folder / name} is larger than the {limit} bytes it may have")
    return data


def variant_name(name: str, cpu: str) -> str:
    """What a file is called that is for one CPU class or flag."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{cpu}.{suffix}"
