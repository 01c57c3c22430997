"""How processes tell each other what nodes used: one contract, a real file and a real Redis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.quotas import Usage
from understudy.cloud.usage import FileBoard, RedisBoard, UsageBoard, UsageExchange, add_up
from understudy.types.errors import LinkDownError

_tenants = itertools.count()
Open = Callable[[], UsageBoard]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(params=["file", "redis"])
def open_board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    opened: list[UsageBoard] = []
    tenant = f"t{next(_tenants)}"

    def open_one() -> UsageBoard:
        board: UsageBoard
        if request.param == "file":
            board = FileBoard(tmp_path / "usage.db")
        else:
            board = RedisBoard(request.getfixturevalue("redis_server").url, tenant=tenant)
        opened.append(board)
        return board

    yield open_one
    for board in opened:
        board.close()
        board.close()


def test_a_report_reaches_all_others_once(open_board: Open) -> None:
    first, second, third = open_board(), open_board(), open_board()
    assert [[], [], []] == [board.read() for board in (first, second, third)]

    first.post(b"one")
    second.post(b"two")

    assert [b"two"] == first.read()
    assert [b"one"] == second.read()
    assert [b"one", b"two"] == third.read()
    assert [[], [], []] == [board.read() for board in (first, second, third)]


def test_who_comes_late_does_not_hear_old_reports(open_board: Open) -> None:
    """Its buckets are full, and the node's old debts are not its own."""
    first = open_board()
    first.post(b"old")
    late = open_board()

    assert [] == late.read()
    first.post(b"new")
    assert [b"new"] == late.read()


def test_old_reports_are_cleared_away(tmp_path: Path) -> None:
    """The file must not grow for ever."""
    now = [1000.0]
    board = FileBoard(tmp_path / "usage.db", now=lambda: now[0])
    other = FileBoard(tmp_path / "usage.db", now=lambda: now[0])
    board.post(b"old")
    now[0] += 120.0
    board.post(b"new")

    assert [b"new"] == other.read()
    board.close()
    other.close()


def test_two_exchanges_add_up_what_nodes_used(open_board: Open) -> None:
    here, there = UsageExchange(open_board()), UsageExchange(open_board())
    assert ({}, {}) == (here.step({}), there.step({}))

    here.step({"a": Usage(calls=2.0, bytes=10.0)})
    here.step({"a": Usage(teacher=1.0), "b": Usage(calls=1.0)})

    expected = {"a": Usage(2.0, 10.0, 1.0), "b": Usage(calls=1.0)}
    assert expected == there.step({})
    assert {} == there.step({})


class AwayBoard:
    """A board that cannot be reached."""

    def post(self, report: bytes) -> None:
        raise LinkDownError(f"no room for {len(report)} bytes")

    def read(self) -> list[bytes]:
        raise LinkDownError("away")

    def close(self) -> None:
        """Nothing to free."""


def test_without_a_board_each_process_counts_for_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Said once, not twice a second."""
    exchange = UsageExchange(AwayBoard())

    assert {} == exchange.step({"a": Usage(1.0)})
    assert {} == exchange.step({})
    assert ["quotas are counted by each process for itself: no room for 45 bytes"] == [
        entry.getMessage() for entry in caplog.records
    ]


def test_a_report_of_another_version_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    found = add_up([b"\x00nonsense", b'{"a": {"calls": 1.0, "new": 5}}'])

    assert {"a": Usage(calls=1.0)} == found
    assert "cannot be read" in caplog.text


def test_a_file_that_is_no_board_is_said(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"something else entirely" * 50)

    with pytest.raises(LinkDownError, match="cannot be used"):
        FileBoard(tmp_path / "usage.db")
