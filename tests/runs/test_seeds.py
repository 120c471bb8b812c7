"""Which runs the name of a group stands for."""

from __future__ import annotations

import pytest

from rtk.config import ConfigError, load_config
from rtk.runs.folder import RunFolder
from rtk.runs.names import group_name
from rtk.runs.seeds import find_group, open_runs
from rtk.tracking.status import note_status


@pytest.fixture
def make(tmp_path):
    """A function that makes the folder of a run of some name and seed."""
    return lambda name, seed: RunFolder.create(
        load_config("digits_ce", [f"output={tmp_path}", f"seed={seed}"]), name
    )


def test_a_run_is_of_a_group_by_its_name_and_its_seed():
    assert group_name("a-seed3", 3) == "a"
    assert group_name("a-seed3-seed0", 0) == "a-seed3"
    assert [group_name(name, 3) for name in ("a-seed4", "a-seed03", "a-seed13", "a", "-seed3")] == [None] * 5


def test_a_group_by_name_and_by_path(make, tmp_path):
    for name, seed in (("a-seed10", 10), ("a-seed2", 2), ("a-seed5", 4), ("a-seedling-seed2", 2), ("b", 0)):
        make(name, seed)
    wanted = ["a-seed2", "a-seed10"]
    assert [run.name for run in find_group("a", str(tmp_path))] == wanted
    assert [run.name for run in find_group(tmp_path / "a")] == wanted
    assert find_group("b", str(tmp_path)) == []
    assert [run.name for run in open_runs(["b", "a"], str(tmp_path))] == ["b", *wanted]
    make("a", 0)  # a run of that very name goes first
    assert [run.name for run in open_runs(["a"], str(tmp_path))] == ["a"]
    with pytest.raises(ConfigError, match="run: got 'c', wanted a run folder"):
        open_runs(["c"], str(tmp_path))


@pytest.mark.parametrize(
    ("status", "said"), [("KILLED", "interrupted"), ("FAILED", "failed"), ("RUNNING", "lost")]
)
def test_a_group_that_is_not_whole_is_no_group_yet(make, tmp_path, status, said):
    note_status(make("a-seed0", 0), "FINISHED")
    note_status(make("a-seed1", 1), status)
    with pytest.raises(ConfigError, match=f"a: a-seed1 is {said}, wanted all of them finished"):
        open_runs(["a"], str(tmp_path))
    assert len(open_runs(["a-seed1"], str(tmp_path))) == 1
