"""A stream is played in the order of time; a file that is sorted by label is told to its owner."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from understudy.cli.main import run
from understudy.cli.ordering import Order, advice, is_sorted_by_label, order_of, ordered
from understudy.cli.rows import Row
from understudy.cli.simulator_setup import SimulateOptions, set_up
from understudy.types.contract import Contract

STREAM = Path("data/stream.jsonl")


def labelled(*labels: str) -> list[Row]:
    return [Row(id=str(n), text=f"text {n}", label=label) for n, label in enumerate(labels)]


def mixed(labels: list[str]) -> list[str]:
    random.Random(3).shuffle(labels)  # noqa: S311 - an order, not a secret
    return labels


def test_rows_that_tell_their_time_are_played_by_it() -> None:
    rows = [Row(id=str(n), text="t", ts=ts) for n, ts in enumerate((30.0, 10.0, 20.0, 10.0))]

    order = order_of(rows, shuffle=False)

    assert Order.TIME is order
    assert ["1", "3", "2", "0"] == [row.id for row in ordered(rows, order, 17)]


def test_one_row_without_a_time_leaves_the_order_of_the_file() -> None:
    rows = [Row(id="0", text="t", ts=9.0), Row(id="1", text="t"), Row(id="2", text="t", ts=1.0)]

    order = order_of(rows, shuffle=False)

    assert Order.FILE is order
    assert tuple(rows) == ordered(rows, order, 17)


def test_a_shuffled_stream_has_the_same_rows_in_an_order_of_its_seed() -> None:
    rows = labelled(*"abcdefghijklmnop")

    first, again, other = (ordered(rows, Order.SHUFFLED, rng) for rng in (17, 17, 18))

    assert first == again
    assert tuple(rows) != first != other
    assert sorted(rows, key=lambda row: row.id) == sorted(first, key=lambda row: row.id)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        pytest.param(["a"] * 40 + ["b"] * 40 + ["c"] * 40, True, id="sorted"),
        pytest.param((["a"] * 10 + ["b"] * 10) * 4, True, id="in-blocks"),
        pytest.param(mixed(["a"] * 40 + ["b"] * 40 + ["c"] * 40), False, id="mixed"),
        pytest.param(mixed(["a"] * 95 + ["b"] * 5), False, id="mixed-but-lopsided"),
        pytest.param(["a", "a", "b", "b", "c", "c"] * 20, False, id="in-pairs"),
        pytest.param(["a"] * 10 + ["b"] * 10, False, id="too-few-to-say"),
        pytest.param(["a"] * 100, False, id="one-label"),
        pytest.param([""] * 100, False, id="no-labels"),
    ],
)
def test_long_runs_of_one_label_are_no_traffic(labels: list[str], found: bool) -> None:
    assert found is is_sorted_by_label(labelled(*labels))


def test_the_advice_names_file_and_option_and_ends_with_the_option() -> None:
    rows = labelled(*(["a"] * 40 + ["b"] * 40))

    said = advice(STREAM, rows, Order.FILE)

    assert said.startswith("stream.jsonl is sorted by label")
    assert "--shuffle" in said
    assert "" == advice(STREAM, rows, Order.SHUFFLED) == advice(STREAM, rows, Order.TIME)
    assert "" == advice(STREAM, labelled(*mixed(["a"] * 40 + ["b"] * 40)), Order.FILE)


def write(path: Path, rows: list[Row], *, timed: bool = False) -> Path:
    """As a data set lies on disk; with times that run backwards if they are asked for."""
    plain = [
        {"text": row.text, "label": row.label} | ({"ts": -n} if timed else {})
        for n, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in plain))
    return path


@pytest.mark.parametrize("timed", [True, False])
def test_the_days_of_a_simulation_follow_the_time(tmp_path: Path, timed: bool) -> None:
    stream = write(tmp_path / "stream.jsonl", labelled(*"abab"), timed=timed)
    options = SimulateOptions(
        seed=stream, stream=stream, out=tmp_path / "out", contract=Contract(), days=2
    )

    setup = set_up(options)

    played = [[row.text for row in day] for day in setup.days]
    in_file = [["text 0", "text 1"], ["text 2", "text 3"]]
    assert played == ([["text 3", "text 2"], ["text 1", "text 0"]] if timed else in_file)


@pytest.mark.parametrize("words", [(), ("--shuffle",)])
def test_who_gives_a_sorted_file_is_told_once_and_can_shuffle_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Nobody listens at the gateway's port, so that nothing is played here."""
    stream = write(tmp_path / "stream.jsonl", labelled(*(["a"] * 40 + ["b"] * 40)))

    code = run([
        "simulate", "--seed", str(stream), "--stream", str(stream), "--out", str(tmp_path / "out"),
        "--teacher", "gateway:127.0.0.1:9", *words,
    ])  # fmt: skip

    said = capsys.readouterr().err
    assert 2 == code
    assert said.count("stream.jsonl is sorted by label") == (0 if words else 1)
