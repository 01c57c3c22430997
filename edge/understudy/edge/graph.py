"""What an ONNX graph is made of, read off its bytes before any runtime sees them.

A graph may point at other files (`external_data`, a well-worn path traversal) or call operators
from anywhere. Both are refused here, by walking the protobuf wire format directly: the `onnx`
package is heavy and not part of the edge. Only the fields that matter are entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from understudy.types.errors import BundleError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""The standard operators, and the quantised ones that ONNX Runtime ships with."""
MAX_DEPTH = 24

# Message -> field number -> message in that field. Names and numbers as in onnx.proto.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
    "Training": {},
    "Function": {},
}
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """The operators a graph uses, as `domain::name`, with an empty domain for the standard."""

    operators: frozenset[str]

    @property
    def quantises_at_run_time(self) -> bool:
        """True if a row's numbers depend on the other rows of its batch.

        Dynamic quantisation takes one scale from the whole activation tensor, so a neighbour's
        outlier changes everybody's answer.
        """
        return any("Dynamic" in name for name in self.operators)


def inspect_graph(data: bytes) -> GraphSummary:
    """Walks a serialised ONNX model.

    Raises:
        BundleError: If the bytes are no ONNX model, point at other files, or use operators,
            functions or training parts that an edge student has no need of.
    """
    operators: set[str] = set()
    _walk(memoryview(data), "Model", 0, operators)
    if not operators:
        raise BundleError("encoder.onnx holds no operators; it is no usable ONNX graph")
    return GraphSummary(frozenset(operators))


def _walk(data: memoryview, kind: str, depth: int, operators: set[str]) -> None:
    if depth > MAX_DEPTH:
        raise BundleError(f"encoder.onnx nests graphs deeper than {MAX_DEPTH} levels")
    if kind in {"Training", "Function"}:
        raise BundleError(f"encoder.onnx carries a {kind.lower()} part; export a plain graph")
    children = _CHILDREN[kind]
    words: dict[int, str] = {}
    for number, value in _fields(data):
        if number in children:
            _walk(_message(value), children[number], depth + 1, operators)
        elif kind == "Tensor":
            _check_tensor(number, value)
        elif kind == "Node" and number in {_NODE_OPERATOR, _NODE_DOMAIN}:
            words[number] = _text(value)
    if kind == "Node":
        operators.add(_operator(words.get(_NODE_DOMAIN, ""), words.get(_NODE_OPERATOR, "")))


def _operator(domain: str, name: str) -> str:
    if domain not in ALLOWED_DOMAINS:
        raise BundleError(f"encoder.onnx uses the operator {domain}::{name}, which is not allowed")
    return f"{'' if domain == 'ai.onnx' else domain}::{name}"


def _check_tensor(number: int, value: int | memoryview) -> None:
    if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
        raise BundleError("encoder.onnx keeps weights in other files; export it in one piece")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields field number and value: an int for a varint, else a view of the bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == 0:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        if wire_type == 2:
            size, position = _varint(data, position)
        elif wire_type in {1, 5}:
            size = 8 if wire_type == 1 else 4
        else:
            raise BundleError("encoder.onnx is not a valid ONNX file")
        if size > len(data) - position:
            raise BundleError("encoder.onnx is cut short")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise BundleError("encoder.onnx is cut short")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise BundleError("encoder.onnx is not a valid ONNX file")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise BundleError("encoder.onnx is not a valid ONNX file")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8", "replace")
