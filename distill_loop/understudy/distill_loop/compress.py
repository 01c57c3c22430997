"""Smaller graphs: INT8 dynamic or static, 4-bit weights; each checked on real inputs afterwards.

The portable INT8 graph keeps weights to 7 bits (`reduce_range`): on CPUs without VNNI the sum of
two 8-bit products saturates at 16 bits, and the same file would answer differently there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from understudy.distill_loop.export import INPUTS, open_graph, run_graph
from understudy.distill_loop.recipe import CompressRecipe
from understudy.distill_loop.student import tokenise
from understudy.types.errors import BundleError, ConfigError


@dataclass(frozen=True, slots=True)
class Parity:
    """How a compressed graph compares with the one it came from.

    Attributes:
        cosine: Mean cosine of the sentence vectors.
        worst_cosine: Lowest cosine.
        bytes_before: Size before.
        bytes_after: Size after.
    """

    cosine: float
    worst_cosine: float
    bytes_before: int
    bytes_after: int


def compress(
    graph: bytes, recipe: CompressRecipe, tokenizer: str, texts: Sequence[str]
) -> tuple[bytes, Parity]:
    """Compresses a graph and compares it with the original on `texts`.

    Raises:
        ConfigError: If the recipe names no known method.
        BundleError: If the result is not a working encoder.
    """
    small = _apply(graph, recipe, tokenizer, texts)
    return small, parity(graph, small, tokenizer, texts)


def parity(before: bytes, after: bytes, tokenizer: str, texts: Sequence[str]) -> Parity:
    """Compares two graphs on texts.

    Raises:
        BundleError: If the second gives numbers that are none.
    """
    old = run_graph(open_graph(before), tokenizer, texts)
    new = run_graph(open_graph(after), tokenizer, texts)
    cosines: NDArray[np.float32] = (old * new).sum(1)
    if not np.isfinite(cosines).all():
        raise BundleError("the compressed graph gives numbers that are not finite")
    return Parity(float(cosines.mean()), float(cosines.min()), len(before), len(after))


def _apply(graph: bytes, recipe: CompressRecipe, tokenizer: str, texts: Sequence[str]) -> bytes:
    match recipe.use:
        case "none":
            return graph
        case "int8_dynamic":
            return quantise_dynamic(graph, reduce_range=recipe.cpu == "portable")
        case "int8_static":
            return quantise_static(graph, tokenizer, texts, reduce_range=recipe.cpu == "portable")
        case "int4":
            return quantise_int4(graph)
        case other:
            raise ConfigError(
                f"compress.use is '{other}'; known: auto, int8_dynamic, int8_static, int4, none"
            )


def quantise_dynamic(graph: bytes, *, reduce_range: bool) -> bytes:
    """INT8 weights per channel, activations scaled at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _work_files(graph) as (source, target):
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            # An early exit keeps the later layers in a branch; they are to become small too.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "EnableSubgraph": True},
        )
        return target.read_bytes()


def quantise_static(
    graph: bytes, tokenizer: str, texts: Sequence[str], *, reduce_range: bool
) -> bytes:
    """INT8 weights and activations with scales fixed on `texts`: rows do not affect each other."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator[tuple[int, ...]] = iter(tokenise(tokenizer, texts).ids)

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            row = next(self.rows, None)
            if row is None:
                return None
            return {INPUTS[0]: np.array([row]), INPUTS[1]: np.ones((1, len(row)), np.int64)}

    with _work_files(graph) as (source, target):
        run(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gather"],
        )
        return target.read_bytes()


def quantise_int4(graph: bytes, block: int = 32) -> bytes:
    """4-bit weights in blocks for the matrices; the embedding stays as it is."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(
        onnx.load_from_string(graph), block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantiser.process()
    data: bytes = quantiser.model.model.SerializeToString()
    return data


class _work_files:  # noqa: N801 - reads as a statement
    """The quantiser works on files; they live in a folder of their own and go with it."""

    def __init__(self, graph: bytes) -> None:
        self._graph = graph

    def __enter__(self) -> tuple[Path, Path]:
        logging.disable(logging.WARNING)
        self._folder = tempfile.TemporaryDirectory(prefix="understudy-quantise-")
        folder = Path(self._folder.name)
        source = folder / "source.onnx"
        source.write_bytes(self._graph)
        return source, folder / "target.onnx"

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
        self._folder.cleanup()
