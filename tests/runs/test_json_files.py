"""What stands in a run's JSON files is looked at when they are read: the file and the key are named."""

from __future__ import annotations

import json
import math

import pytest

from rtk.config import ConfigError
from rtk.runs.folder import RunFolder
from rtk.runs.json_files import read_json

GOOD = {"status": "FINISHED", "keep_checkpoints": True, "tags": {}, "started": 1.5, "ended": None, "new": [1]}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff", "[" * 100_000])
def test_what_is_no_mapping(tmp_path, text):
    (tmp_path / "status.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match="status.json: damaged"):
        RunFolder(tmp_path).read_json("status.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": None}, "status is None"),
        ({"tags": 3}, "tags is 3, no mapping"),
        ({"started": 1e308}, r"started is 1e\+308"),
        ({"ended": math.nan}, "ended is nan"),
        ({"keep_checkpoints": "x" * 500}, "keep_checkpoints is 'x{59}, which rtk"),
    ],
)
def test_another_kind_of_value_is_named(tmp_path, change, said):
    path = tmp_path / "status.json"
    path.write_text(json.dumps(GOOD))
    assert read_json(path) == GOOD
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ConfigError, match=f"status.json: damaged: {said}"):
        read_json(path)


def test_far_inside(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"sets": {"cats": {"msp": 1}}}))
    assert read_json(path)
    with pytest.raises(ConfigError, match="sets.cats.msp is 1, no mapping"):
        read_json(path, "evaluation/metrics.json")


def test_figures_are_numbers_or_several_of_them(tmp_path):
    path = tmp_path / "metrics.json"
    for value in (0.5, None, math.nan, [0.1, 0.2], {"low": 0.1, "high": 1}):
        path.write_text(json.dumps({"test": {"msp": {"aurc": value}}}))
        assert read_json(path, "evaluation/metrics.json")
    for value in ("0.5", [0.1, "a"]):
        path.write_text(json.dumps({"test": {"msp": {"aurc": value}}}))
        with pytest.raises(ConfigError, match=r"test\.msp\.aurc is "):
            read_json(path, "evaluation/metrics.json")
