"""From torch to one ONNX file: dynamic batch and length, one output, checked against torch.

Traps this module keeps clear of: an output must not be called like an operator's own (`embedding`
doubled a name in ONNX Runtime), an example batch of one freezes the batch, and a graph that was
never compared with torch on real inputs may be wrong without a sound.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from understudy.distill_loop.student import StudentModel, encode, tokenise
from understudy.types.errors import BundleError

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sent_vec"
MAX_BATCH = 256


def export_onnx(model: StudentModel) -> bytes:
    """Exports the encoder; weights lie inside the file."""
    spec = model.encoder.spec
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    length = torch.export.Dim("seq", min=2, max=spec.positions)
    # Two tensors: passing one twice would tie the mask to the ids.
    ids, mask = (torch.ones(2, min(8, spec.positions), dtype=torch.int64) for _ in range(2))
    axes = {0: batch, 1: length}
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        program = torch.onnx.export(
            model.encoder.eval(),
            (ids, mask),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=(axes, axes),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise BundleError("torch did not return an ONNX program")
    data: bytes = program.model_proto.SerializeToString()
    return data


def open_graph(graph: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU, as the edge opens it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_graph(
    session: ort.InferenceSession, tokenizer: str, texts: Sequence[str]
) -> NDArray[np.float32]:
    """Sentence vectors (N, D), row by row: dynamic INT8 takes its scale from the whole batch."""
    ids = tokenise(tokenizer, texts).ids
    rows = [
        session.run(
            [OUTPUT], {INPUTS[0]: np.array([row]), INPUTS[1]: np.ones((1, len(row)), np.int64)}
        )
        for row in ids
    ]
    return np.concatenate([row[0] for row in rows])


def check_parity(model: StudentModel, graph: bytes, texts: Sequence[str]) -> float:
    """Largest difference of any number between torch and the graph on real texts.

    Raises:
        BundleError: If they differ by more than 1e-4.
    """
    difference = np.abs(encode(model, texts) - run_graph(open_graph(graph), model.tokenizer, texts))
    worst = float(difference.max(initial=0.0))
    if not worst <= 1e-4:
        raise BundleError(f"the exported graph differs from torch by {worst:.2g}")
    return worst


class _quiet:  # noqa: N801 - reads as a statement
    """The exporter logs progress at INFO on loggers of its own."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
