"""The campaign of faults finds what a disturbed run differs in from an undisturbed one."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from faults import main
from faults_ends import differences, nearly_differences

from rtk.runs.checkpoints import point_to, publish, resolve_checkpoint, seal
from rtk.runs.folder import RunFolder
from rtk.train.saving import save_checkpoint
from tests.train.uniform_states import state_of


@pytest.fixture
def run_of(tmp_path):
    """A run of three epochs whose last weights all have a value."""

    def make(name: str, value: float) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        last = run.checkpoints / "last"
        save_checkpoint(last, state_of(value), {"step": 24, "world_size": 1})
        point_to(run.checkpoints / "best", resolve_checkpoint(last))
        for step in (8, 16, 24):
            run.append_metrics(step, step / 8, {"val/accuracy": step / 32, "train/loss/ce": value})
        return run

    return make


def cut_in_two(run: RunFolder) -> None:
    """Save the last checkpoint of a run once more, as two workers would."""
    whole, last = resolve_checkpoint(run.checkpoints / "last"), run.checkpoints / "last"
    folder, halves, files = whole.with_name("00002-step-24"), ({}, {}), {}
    folder.mkdir()
    for key, value in load_file(whole / "shard-00000.safetensors").items():
        middle = value.numel() // 2
        halves[0][key] = value[:middle].clone()
        halves[1][f"{key.rpartition('|')[0]}|{middle}"] = value[middle:].clone()
    for number, half in enumerate(halves):
        save_file(half, folder / f"shard-{number:05d}.safetensors")
    save_file(load_file(whole / "common.safetensors"), folder / "common.safetensors")
    for path in folder.iterdir():
        files[path.name] = seal(path)
    for alias in (last, last.with_name("best")):
        publish(alias, folder, files, {"step": 24, "world_size": 2})


def test_runs_that_ended_alike(run_of):
    assert differences(run_of("a", 1), run_of("b", 1)) == {"differing": [], "rows": []}


def test_runs_that_ended_otherwise(run_of):
    run, wanted = run_of("a", 1), run_of("b", 1 + 2**-20)
    names = ["common.safetensors", "shard-00000.safetensors"]
    assert sorted(differences(run, wanted)["differing"]) == sorted(
        f"{alias}: {name}" for alias in ("last", "best") for name in names
    )
    (resolve_checkpoint(run.checkpoints / "last") / "common.safetensors").unlink()
    damaged = differences(run, run)["differing"]
    assert any("common.safetensors: " in line and "missing" in line for line in damaged)


def test_rows_that_are_there_twice_missing_or_others(run_of):
    run, wanted = run_of("a", 1), run_of("b", 1)
    run.append_metrics(16, 2, {"val/accuracy": 0.5})
    assert differences(run, wanted)["rows"] == ["(16, 'val/accuracy')"]
    run.drop_metrics_after(8)
    run.append_metrics(24, 3, {"val/accuracy": 0.7})
    assert differences(run, wanted)["rows"] == ["(16, 'val/accuracy')", "(24, 'val/accuracy')"]


def test_shards_of_another_number_of_workers_are_compared_to_rounding(run_of):
    run, wanted = run_of("a", 1), run_of("b", 1 + 2**-20)
    cut_in_two(run)
    found = nearly_differences(run, wanted)
    assert found == {"differing": [], "rows": [], "difference": pytest.approx(2**-20)}
    assert nearly_differences(run, run_of("c", 1.001))["differing"] != []
    weights = load_file(resolve_checkpoint(run.checkpoints / "last") / "shard-00001.safetensors")
    assert all(bool(torch.all(value == 1)) for value in weights.values())


def test_the_summary_says_how_runs_of_each_kind_have_ended(tmp_path, capsys):
    (tmp_path / "kills.jsonl").write_text(
        '{"run": 0, "victim": "worker", "saving": false, "seconds": 10.0}\n'
        '{"where": "nodes", "run": 0, "victim": "node", "saving": true, "seconds": 40.0}\n'
    )
    (tmp_path / "runs.jsonl").write_text(
        '{"run": 0, "code": 0, "differing": [], "rows": []}\n'
        '{"where": "nodes", "run": 0, "code": 1, "differing": [], "rows": []}\n'
        '{"where": "resize", "run": 0, "code": 0, "differing": [], "rows": [], "difference": 2e-7}\n'
    )
    main(["--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "disk: 1 kills in 1 runs; 1 finished bit-equal, each row once" in said
    assert "nodes: 1 kills in 1 runs; 0 finished bit-equal" in said
    assert "resize: 0 kills in 1 runs; 1 finished to 2e-07 as the undisturbed one" in said
    assert "nodes: while a checkpoint was written: 1 kills, to the next step 40.0 s" in said
