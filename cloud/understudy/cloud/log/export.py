"""The log as Parquet, for people with notebooks: one row a record, in files of bounded size."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from understudy.cloud.log import EscalationLog
from understudy.types.errors import ConfigError
from understudy.types.records import LoggedRow

_ROWS_PER_GROUP = 8192


def export_parquet(log: EscalationLog, path: Path, *, after_sequence: int = 0) -> int:
    """Writes every row after a sequence to one file, whole or not at all; returns how many.

    Labels and log-probabilities of the teacher are lists; an unlabelled row has nulls there.

    Raises:
        ConfigError: If pyarrow is missing, or the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'understudy[cloud]'") from error
    schema = _schema(pa)
    count = 0
    try:
        with _replaced(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for group in _groups(log.scan(after_sequence)):
                plain = [_to_plain(row) for row in group]
                writer.write_table(pa.Table.from_pylist(plain, schema=schema))
                count += len(plain)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return count


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` once it is whole and on disk."""
    # Rows hold what users typed: nobody else on the machine reads them.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        yield Path(name)
        os.fsync(handle)
        Path(name).replace(path)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


def _groups(rows: Iterator[LoggedRow]) -> Iterator[list[LoggedRow]]:
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group


def _to_plain(row: LoggedRow) -> dict[str, Any]:
    record, teacher = row.record, row.teacher
    return {
        "sequence": row.sequence,
        "event_id": record.event_id,
        "node": record.node,
        "task": record.task,
        "bundle": record.bundle,
        "kind": record.kind.value,
        "text": record.text,
        "subject": record.subject,
        "student_labels": [entry.label for entry in record.top],
        "student_scores": [entry.score for entry in record.top],
        "confidence": record.confidence,
        "threshold": record.threshold,
        "coin": record.coin,
        "audit_rate": record.audit_rate,
        "propensity": record.propensity,
        "created_unix_s": record.created_unix_s,
        "logged_unix_s": row.logged_unix_s,
        "teacher": teacher.teacher if teacher else None,
        "prompt_hash": teacher.prompt_hash if teacher else None,
        "teacher_labels": list(teacher.labels) if teacher else None,
        "teacher_log_probs": list(teacher.log_probs) if teacher else None,
        "label_mass": teacher.label_mass if teacher else None,
    }


def _schema(pa: Any) -> Any:  # noqa: ANN401 - pyarrow ships no types
    words = ("event_id", "node", "task", "bundle", "kind", "text", "subject")
    numbers = ("confidence", "threshold", "audit_rate", "propensity")
    return pa.schema(
        [
            ("sequence", pa.int64()),
            *((name, pa.string()) for name in words),
            ("student_labels", pa.list_(pa.string())),
            ("student_scores", pa.list_(pa.float64())),
            *((name, pa.float64()) for name in numbers),
            ("coin", pa.bool_()),
            ("created_unix_s", pa.float64()),
            ("logged_unix_s", pa.float64()),
            ("teacher", pa.string()),
            ("prompt_hash", pa.string()),
            ("teacher_labels", pa.list_(pa.string())),
            ("teacher_log_probs", pa.list_(pa.float64())),
            ("label_mass", pa.float64()),
        ]
    )
