"""Rows of metrics.csv are read once each, whatever happens to the file in between."""

from __future__ import annotations

import math

import pytest

from rtk.config import ConfigError
from rtk.runs.metrics_file import MetricsTail, append_rows, read_rows, replace_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def steps(rows) -> list[int]:
    return [row["step"] for row in rows]


def test_only_what_is_new(path):
    tail = MetricsTail(path)
    assert tail.read_new() == []
    append_rows(path, 1, 0.1, {"a": 0.1, "b": math.inf})
    assert steps(tail.read_new()) == [1, 1]
    assert tail.read_new() == []
    append_rows(path, 2, 0.2, {"a": 0.2})
    assert tail.read_new() == read_rows(path)[2:]
    assert not tail.from_start
    tail.restart()
    assert steps(tail.read_new()) == [1, 1, 2]
    assert tail.from_start


def test_a_row_that_is_being_written_comes_whole(path):
    append_rows(path, 1, 0.1, {"a": 0.5})
    whole, tail = path.read_bytes(), MetricsTail(path)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert tail.read_new() == []
    path.write_bytes(whole)
    assert [row["value"] for row in tail.read_new()] == [0.5]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_file_that_has_been_replaced_is_read_from_the_start(path, kept):
    tail = MetricsTail(path)
    for step in (1, 2):
        append_rows(path, step, 0.1, {"a": step})
    before = tail.read_new()
    replace_rows(path, before[:kept])
    append_rows(path, 3, 0.1, {"a": 3})
    assert tail.read_new() == [*before[:kept], *read_rows(path)[-1:]]
    assert tail.from_start


def test_names_with_commas_and_quotes_survive_a_replacement(path):
    append_rows(path, 1, 0.5, {'near:cats, "big" ones': 0.1 + 0.2})
    rows = read_rows(path)
    replace_rows(path, rows)
    assert read_rows(path) == rows
    assert rows[0]["key"] == 'near:cats, "big" ones'


@pytest.mark.parametrize("row", [b"x,0.1,1.0,key,0.5", b"1,0.1,1.0,key,half", b"1,0.1,1.0,\xff,0.5"])
def test_a_damaged_file_is_named(path, row):
    append_rows(path, 1, 0.1, {"a": 0.1})
    path.write_bytes(path.read_bytes() + row + b"\n")
    with pytest.raises(ConfigError, match="metrics.csv: damaged"):
        read_rows(path)
