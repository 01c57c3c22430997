"""The log as Parquet: every row, read back by somebody else's code."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from simulators.cloud_gateway import LABELS, label, record
from understudy.cloud.log import NewRow
from understudy.cloud.log.export import export_parquet
from understudy.cloud.log.sqlite import SqliteLog
from understudy.types.errors import ConfigError


@pytest.fixture
def log(tmp_path: Path) -> SqliteLog:
    return SqliteLog(tmp_path / "log.db")


def test_every_row_is_in_the_file(log: SqliteLog, tmp_path: Path) -> None:
    """Infinity, soft labels and their absence included."""
    log.append([NewRow(record(node="n1", threshold=math.inf), label()), NewRow(record(node="n2"))])

    count = export_parquet(log, tmp_path / "rows.parquet")

    first, second = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert 2 == count
    assert ("n1", math.inf, LABELS[0]) == (
        first["node"],
        first["threshold"],
        first["teacher_labels"][0],
    )
    assert (None, None) == (second["teacher"], second["teacher_log_probs"])
    log.close()


def test_an_export_may_begin_where_the_last_one_ended(log: SqliteLog, tmp_path: Path) -> None:
    """One file a day."""
    stored = log.append([NewRow(record(node="n")) for _ in range(3)])

    assert 1 == export_parquet(log, tmp_path / "x.parquet", after_sequence=stored[1].sequence)
    log.close()


def test_an_empty_log_is_an_empty_table(log: SqliteLog, tmp_path: Path) -> None:
    """Same columns, no rows: a notebook need not know."""
    assert 0 == export_parquet(log, tmp_path / "x.parquet")
    assert "teacher_log_probs" in pq.read_table(tmp_path / "x.parquet").column_names
    log.close()


def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(
    log: SqliteLog, tmp_path: Path
) -> None:
    """A missing folder, in one sentence."""
    with pytest.raises(ConfigError, match="cannot be written"):
        export_parquet(log, tmp_path / "nowhere" / "x.parquet")

    export_parquet(log, tmp_path / "x.parquet")
    assert not list(tmp_path.glob(".*.tmp"))
    assert 0o600 == stat.S_IMODE((tmp_path / "x.parquet").stat().st_mode)
    log.close()
