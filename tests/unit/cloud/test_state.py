"""What gateways share: one contract, a real SQLite file and a real Redis."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.cloud_redis import DURABLE, RedisProcess
from understudy.cloud.duties import LEASE_S, Lease
from understudy.cloud.state import SharedState, SqliteState
from understudy.cloud.state_redis import RedisState
from understudy.types.errors import DataError, LinkDownError

_tenants = itertools.count()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedState]:
    made: SharedState
    if request.param == "sqlite":
        made = SqliteState(tmp_path / "state.db")
    else:
        url = request.getfixturevalue("redis_server").url
        made = RedisState(url, tenant=f"t{next(_tenants)}")
    yield made
    made.close()


def test_a_value_is_kept_until_it_is_deleted(state: SharedState) -> None:
    """Any bytes, replaced whole."""
    state.put("kind/name", b"\x00\xff")
    state.put("kind/name", b"second")

    assert b"second" == state.get("kind/name")
    state.delete("kind/name")
    state.delete("kind/name")
    assert state.get("kind/name") is None


def test_a_swap_needs_the_value_it_expects(state: SharedState) -> None:
    """Of two processes that change the same value, one must hear that it came too late."""
    assert state.swap("k/a", None, b"1")
    assert not state.swap("k/a", None, b"2")
    assert not state.swap("k/a", b"0", b"2")
    assert state.swap("k/a", b"1", b"2")
    assert b"2" == state.get("k/a")


def test_items_are_those_below_a_prefix(state: SharedState) -> None:
    """The deny-list must not hold what only looks like it."""
    for key in ("denied/a", "denied/ü", "denied2/b", "deny/c"):
        state.put(key, key.encode())

    assert {"denied/a", "denied/ü"} == set(state.items("denied/"))
    assert {"denied/a": b"denied/a"} == state.items("denied/a")


def test_of_many_swaps_one_wins(state: SharedState) -> None:
    """A one-time token, shown by two nodes at the same moment."""
    won: list[int] = []

    def race(number: int) -> None:
        if state.swap("token/x", None, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [state.get("token/x")] == [str(n).encode() for n in won]


def test_a_lease_has_one_holder_until_it_runs_out(state: SharedState) -> None:
    """Two watchers would count each row twice."""
    now = [1000.0]
    first, second = (Lease(state, "lease/x", lambda: now[0]) for _ in range(2))

    assert (True, False, True) == (first.hold(), second.hold(), first.hold())
    now[0] += LEASE_S + 1
    assert (True, False) == (second.hold(), first.hold())
    second.release()
    assert first.hold()


def test_giving_back_what_another_holds_changes_nothing(state: SharedState) -> None:
    """A process that was stopped late must not free its successor's lease."""
    now = [1000.0]
    first, second = (Lease(state, "lease/x", lambda: now[0]) for _ in range(2))
    first.hold()
    now[0] += LEASE_S + 1
    second.hold()

    first.release()

    assert not first.hold()


def test_a_closed_file_is_a_link_that_is_down(tmp_path: Path) -> None:
    """An error of ours, that callers know how to treat."""
    state = SqliteState(tmp_path / "state.db")
    state.close()
    state.close()

    with pytest.raises(LinkDownError):
        state.get("a/b")


def test_a_file_of_something_else_is_said(tmp_path: Path) -> None:
    """A person pointed `state_dir` at the wrong folder."""
    path = tmp_path / "state.db"
    path.write_bytes(b"these are my holiday notes " * 100)

    with pytest.raises(DataError, match="damaged or not ours"):
        SqliteState(path)


def test_a_file_opened_twice_in_a_process_is_still_shared_with_others(tmp_path: Path) -> None:
    """Closing any handle of a file drops the process's locks on it: SQLite then loses its log."""
    path = tmp_path / "state.db"
    first, second = SqliteState(path), SqliteState(path)
    first.put("k/a", b"before")
    program = (
        "import sys; from pathlib import Path; from understudy.cloud.state import SqliteState; "
        "state = SqliteState(Path(sys.argv[1])); state.put('k/a', sys.argv[2].encode()); "
        "state.close()"
    )
    heard = []
    for word in ("once", "twice", "again"):
        subprocess.run([sys.executable, "-c", program, path, word], check=True, timeout=60)
        heard += [first.get("k/a"), second.get("k/a")]

    assert [b"once", b"once", b"twice", b"twice", b"again", b"again"] == heard
    first.close()
    second.close()
