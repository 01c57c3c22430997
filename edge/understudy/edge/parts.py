"""The parts of a bundle as bytes: head, embeddings, calibration, certificate, golden vectors.

Encoding is deterministic (fixed order, fixed dates, no compression), so that equal parts have equal
digests. Decoding trusts nothing: no pickles, no archives that unfold, no numbers that are none.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from understudy.types.contract import Calibration, Certificate
from understudy.types.errors import BundleError, InvalidValueError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")

# numpy ships these without types.
_write_array: Any = np.lib.format.write_array
_read_array: Any = np.lib.format.read_array
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIT_TOLERANCE = 1e-2
_INFINITE = frozenset({"threshold", "expires_unix_s"})


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What turns a sentence vector into one number a class.

    Attributes:
        weight: float32, shape (C, D).
        bias: float32, shape (C,).
        prototypes: float32 unit rows, shape (P, D); P is 0 when there are none.
        prototype_labels: Class index of each prototype, shape (P,).
        mix: Weight of the prototypes' opinion, in [0, 1].
        sharpness: Factor on the cosine before its softmax, positive.
        foreign: Background: what the numbers of the classes must exceed together, as weights and,
            last, a bias, shape (D + 1,); empty when the nearest prototype decides.
    """

    weight: Floats
    bias: Floats
    prototypes: Floats
    prototype_labels: Ints
    mix: float = 0.0
    sharpness: float = 1.0
    foreign: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        classes, size = self.weight.shape
        if self.bias.shape != (classes,):
            raise InvalidValueError(f"a head of {classes} classes needs {classes} biases")
        if self.prototypes.ndim != 2 or self.prototypes.shape[1] != size:
            raise InvalidValueError(f"prototypes must have shape (P, {size})")
        if self.prototype_labels.shape != (len(self.prototypes),):
            raise InvalidValueError("every prototype needs one class index")
        if not 0.0 <= self.mix <= 1.0 or not self.sharpness > 0.0:
            raise InvalidValueError("mix must lie in [0, 1] and sharpness must be positive")
        if self.foreign.shape not in {(0,), (size + 1,)}:
            raise InvalidValueError(f"the background must have shape ({size + 1},), or none")
        self._check_numbers(classes)

    def _check_numbers(self, classes: int) -> None:
        arrays = (self.weight, self.bias, self.prototypes, self.foreign)
        if not all(np.isfinite(array).all() for array in arrays):
            raise InvalidValueError("a head holds numbers that are not finite")
        labels = self.prototype_labels
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise InvalidValueError(f"a prototype's class index must lie in [0, {classes})")
        norms = np.linalg.norm(self.prototypes.astype(np.float64), axis=1)
        if np.abs(norms - 1.0).max(initial=0.0) > _UNIT_TOLERANCE:
            raise InvalidValueError("prototypes must be unit vectors")


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """A raw text and the logits that this student must give for it.

    Attributes:
        text: As a product would pass it.
        logits: One number a class.
        tolerance: Largest difference in any logit that still counts as the same.
    """

    text: str
    logits: tuple[float, ...]
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.logits) or not self.tolerance > 0:
            raise InvalidValueError("golden logits must be finite and the tolerance positive")


def encode_head(head: Head, *, half: bool = False) -> bytes:
    """Writes a head.

    Args:
        head: What to write.
        half: Store weight and prototypes as float16: half the size, and `decode_head` returns the
            rounded numbers, so fit the calibration on those.
    """
    kind = np.float16 if half else np.float32
    background = {"foreign": head.foreign.astype(np.float32)} if head.foreign.size else {}
    return _pack(
        {
            "bias": head.bias.astype(np.float32),
            **background,
            "mix": np.float64(head.mix),
            "prototype_labels": head.prototype_labels.astype(np.int32),
            "prototypes": head.prototypes.astype(kind),
            "sharpness": np.float64(head.sharpness),
            "weight": head.weight.astype(kind),
        }
    )


def decode_head(data: bytes) -> Head:
    """Reads a head.

    Raises:
        BundleError: If the bytes are no head.
    """
    arrays = _unpack(data, "the head")
    try:
        return Head(
            weight=_floats(arrays["weight"]),
            bias=_floats(arrays["bias"]),
            prototypes=_floats(arrays["prototypes"]),
            prototype_labels=arrays["prototype_labels"].astype(np.int64, casting="safe"),
            mix=float(arrays["mix"]),
            sharpness=float(arrays["sharpness"]),
            foreign=_floats(arrays.get("foreign", np.zeros(0, np.float32))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the head cannot be used: {error}") from error


def encode_embeddings(table: npt.NDArray[Any]) -> bytes:
    """Writes the table of a static student, shape (V, D), float32 or float16."""
    return _pack({"table": np.ascontiguousarray(table)})


def decode_embeddings(data: bytes) -> npt.NDArray[Any]:
    """Reads the table of a static student; one row a token.

    Raises:
        BundleError: If the bytes are no such table.
    """
    table = _unpack(data, "the embedding table").get("table")
    if table is None or table.ndim != 2 or table.dtype not in (np.float32, np.float16):
        raise BundleError("the embedding table must be float32 or float16 with two axes")
    if not table.size or not np.isfinite(table).all():
        raise BundleError("the embedding table is empty or holds numbers that are not finite")
    return table


def encode_calibration(calibration: Calibration) -> bytes:
    """Writes a calibration as canonical JSON."""
    return _to_json(asdict(calibration))


def decode_calibration(data: bytes) -> Calibration:
    """Reads a calibration.

    Raises:
        BundleError: If the bytes are none.
    """
    return _from_json(data, Calibration, "the calibration")


def encode_certificate(certificate: Certificate) -> bytes:
    """Writes a certificate as canonical JSON; an infinite threshold or date is null."""
    return _to_json(asdict(certificate))


def decode_certificate(data: bytes) -> Certificate:
    """Reads a certificate.

    Raises:
        BundleError: If the bytes are none.
    """
    return _from_json(data, Certificate, "the certificate")


def encode_golden(vectors: Sequence[GoldenVector]) -> bytes:
    """Writes golden vectors as canonical JSON."""
    return _to_json([asdict(vector) for vector in vectors])


def decode_golden(data: bytes) -> tuple[GoldenVector, ...]:
    """Reads golden vectors.

    Raises:
        BundleError: If the bytes are none.
    """
    return _from_json(data, tuple[GoldenVector, ...], "the golden vectors")


def _pack(arrays: Mapping[str, Any]) -> bytes:
    """An uncompressed .npz with fixed dates, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            _write_array(member, np.asarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue())
    return buffer.getvalue()


def _unpack(data: bytes, what: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            # Stored members cannot unfold to more than the file itself holds.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise BundleError(f"{what} must be stored without compression")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        OSError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise BundleError(f"{what} cannot be read: {error}") from error


def _array(data: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = _read_array(io.BytesIO(data), allow_pickle=False)
    return array


def _floats(array: npt.NDArray[Any]) -> Floats:
    if array.dtype not in (np.float32, np.float16):
        raise InvalidValueError(f"numbers must be float32 or float16, not {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _to_json(plain: Any) -> bytes:  # noqa: ANN401 - any JSON
    text = json.dumps(
        _without_infinity(plain),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode()


def _without_infinity(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, Mapping):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and value == math.inf else value


def _with_infinity(value: Any, key: str = "") -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {name: _with_infinity(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_infinity(item) for item in value]
    return math.inf if value is None and key in _INFINITE else value


def _from_json(data: bytes, cls: type[T], what: str) -> T:
    try:
        return msgspec.convert(_with_infinity(json.loads(data)), cls)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} cannot be read: {error}") from error
