"""`rtk train --seeds` and `rtk evaluate` of the group, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.commands.parsers import seeds
from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.runs.seeds import find_group
from rtk.tracking.mirror import Mirror
from rtk.tracking.status import note_status
from rtk.train.checkpoint import read_state
from tests.train.ranks import workers_forked

SMALL = ["model.width=4", "data.train_rows=128", "train.threads=1", "train.workers=1", "train.precision=fp32"]


def test_seeds_are_written_as_ranges_with_both_ends():
    assert seeds("0..4") == [0, 1, 2, 3, 4]
    assert seeds("7,0, 3..4") == [7, 0, 3, 4]
    assert seeds(str(2**63 - 1)) == [2**63 - 1]


@pytest.mark.parametrize("text", ["", "4..0", "1,1", "0..3,2", "-1", "1.5", "0..", "0..1000", str(2**63)])
def test_other_seeds_are_refused_in_one_line(text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits_ce", f"--seeds={text}"])
    assert stop.value.code == 2
    assert "wanted seeds such as 0,3,7 or 0..4 (five seeds, both ends included)" in capsys.readouterr().err


@pytest.fixture
def trained(tmp_path):
    """A run `a-seed0` of the recipe, as if it had been trained."""
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}", "seed=0"]), "a-seed0")
    note_status(run, "FINISHED")
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.5"], r"a-seed0 is there with other values \(optimizer.lr: 0.05 -> 0.5\)"),
        (["train.duration=3ep"], "train.duration: '12ep' -> '3ep'"),
        (["seed=3"], "override 'seed=3': cannot be combined with --seeds"),
        (["--resume", "a-seed0"], "--resume: cannot be combined with --seeds"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(words, message, trained, tmp_path, capsys):
    given = ["train", "digits_ce", "--output", str(tmp_path), "--seeds", "0..1"]
    given += [] if "--resume" in words else ["--name", "a"]
    assert main([*given, *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["a-seed0"]


def test_the_name_of_a_run_is_none_of_a_group(trained, tmp_path, capsys):
    assert main(["train", "digits_ce", "--output", str(tmp_path), "--seeds", "0", "--name", "a-seed0"]) == 2
    assert "'a-seed0' is the name of a run" in capsys.readouterr().err
    (tmp_path / "b-seed0").mkdir()
    (tmp_path / "b-seed0" / "notes.txt").write_text("mine")
    assert main(["train", "digits_ce", "--output", str(tmp_path), "--seeds", "0", "--name", "b"]) == 2
    assert "b-seed0 exists already and is no run" in capsys.readouterr().err


def test_finished_runs_are_left_alone(trained, tmp_path, capsys):
    trained.append_metrics(9, 1.0, {"val/accuracy": 0.5})
    trained.write_json("best.json", {"step": 9, "val/accuracy": 0.5})
    given = ["train", "digits_ce", "--output", str(tmp_path), "--name", "a", "--seeds", "0"]
    assert main([*given, "tracking.experiment=other", "train.threads=2", "--json"]) == 0  # incidental
    found = json.loads(capsys.readouterr().out)
    assert (found["mean"], found["std"], found["left"]) == ({"val/accuracy": 0.5}, {}, [])
    assert [run["status"] for run in found["runs"]] == ["finished"]
    assert not (trained.path / "mlflow.json").exists()
    assert main(given) == 0
    assert f"next: rtk evaluate a --output {tmp_path}" in capsys.readouterr().out


def _interrupt_at(path: Path, step: int) -> None:
    """Ctrl-C, once a run has passed a step."""

    def watch() -> None:
        while not path.exists() or json.loads(path.read_text()).get("step", 0) < step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
def test_seeds_are_trained_stopped_resumed_and_evaluated(ray_session, tmp_path, capsys):
    given = ["train", "digits_ce", *SMALL, "train.duration=40ep", "--output", str(tmp_path), "--name", "a"]
    given += ["evaluate.scores=[msp, knn]", "--seeds", "0..2", "--json"]
    _interrupt_at(tmp_path / "a-seed1" / "progress.json", 1)
    with workers_forked():
        assert main(given) == 130
    stopped = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in stopped["runs"]] == ["finished", "interrupted"]
    assert stopped["left"] == [2]
    runs = [tmp_path / f"a-seed{seed}" for seed in range(3)]
    first = (runs[0] / "metrics.csv").stat().st_mtime_ns
    step = read_state(runs[1] / "checkpoints" / "last")["step"]
    kept = [row for row in RunFolder(runs[1]).read_metrics() if row["step"] <= step]
    # As after kill -9 before the first checkpoint.
    RunFolder.create(RunFolder(runs[0]).config().model_copy(update={"seed": 2}), "a-seed2")
    assert main(["evaluate", "a", "--output", str(tmp_path)]) == 2
    assert "a: a-seed1 is interrupted" in capsys.readouterr().err

    with workers_forked():
        assert main(given) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in whole["runs"]] == ["finished"] * 3
    assert (runs[0] / "metrics.csv").stat().st_mtime_ns == first
    assert RunFolder(runs[1]).read_metrics()[: len(kept)] == kept
    best = [run["best"]["val/accuracy"] for run in whole["runs"]]
    assert whole["mean"]["val/accuracy"] == pytest.approx(sum(best) / 3)
    mirror = Mirror(RunFolder(runs[0]))
    found = mirror._connect().search_runs([mirror._experiment()], "tags.`rtk.seeds` = 'a'")
    assert {run.info.run_name for run in found} == {run.name for run in runs}

    assert main(["evaluate", "a", "--output", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    accuracies = [one["summary"]["accuracy"] for one in result["runs"].values()]
    assert list(result["runs"]) == [run.name for run in find_group("a", str(tmp_path))]
    assert result["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert result["unlike"] == []
