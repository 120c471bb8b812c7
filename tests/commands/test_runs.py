"""`rtk runs`, and runs by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.config.search_space import parse_space
from rtk.deploy.predict import open_model
from rtk.runs.folder import RunFolder, held
from rtk.runs.listing import read_listed
from rtk.runs.names import find_folder, free_folder
from rtk.runs.sweep import SWEEP_FILE, Sweep
from rtk.tracking.status import note_status

OLD = Path(__file__).parents[1] / "old"


def started(path: Path, when: float) -> None:
    os.utime(path, (when, when))


@pytest.fixture
def output(tmp_path):
    """An evaluated run `old`, a younger one `young` that has been validated once, and a sweep `s` between."""
    output = tmp_path / "runs"
    shutil.copytree(OLD / "run", output / "old")
    young = RunFolder.create(load_config("digits_ce", [f"output={output}"]), "young")
    young.append_metrics(12, 1.0, {"val/accuracy": 0.75, "val/aurc": 0.125})
    young.write_json("progress.json", {"phase": "training", "step": 12, "epoch": 1.0, "epochs": 4.0})
    note_status(young, "RUNNING")
    tree = {"objectives": {"val/aurc": "min"}, "trials": 3, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}}
    sweep = Sweep.create(parse_space(tree, "here"), young.config(), "s")
    note_status(RunFolder.create(sweep.config(), "trial-0000"), "FINISHED")
    for number, file in enumerate(("old/config.yaml", f"s/{SWEEP_FILE}", "young/config.yaml")):
        started(output / file, 1e9 + number)
    return output


def test_list_shows_how_each_stands(output, capsys):
    assert main(["runs", "ls", "--output", str(output)]) == 0
    heading, old, sweep, young, note = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["run", "status", "recipe", "epoch"]
    accuracy = json.loads((OLD / "run/evaluation/metrics.json").read_text())["summary"]["accuracy"]
    assert old.split()[:5] == ["old", "finished", "digits_demo", "2", f"{accuracy * 100:.2f}"]
    assert sweep.split()[:5] == ["s", "unknown", "digits_ce", "1/3", "trials"]
    assert young.split()[:6] == ["young", "lost", "digits_ce", "1/4", "(75.00)", "(125.00)"]
    assert note == "in brackets: on validation images, for want of an evaluation"


def test_a_run_is_running_while_its_process_holds_it(output, capsys):
    with held(output / "young", "run"):
        assert read_listed(output / "young").status == "running"
        assert main(["runs", "rm", "young", "--yes", "--output", str(output)]) == 2
    assert "run: young is running, wanted one that has ended" in capsys.readouterr().err
    assert (output / "young" / "config.yaml").exists()
    with held(output / "s", "sweep"):
        assert main(["runs", "rm", str(output / "s" / "trial-0000"), "--yes"]) == 2


def test_last_is_taken_for_a_model_too(output):
    started(output / "old" / "config.yaml", 2e9)
    assert open_model("last", str(output)).origin["run"] == open_model("old", str(output)).origin["run"]


def test_show(output, capsys):
    assert main(["runs", "show", "old", "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"run: old", "status: finished", "kind: run", "epoch: 2"} <= set(lines)
    assert any(line.startswith("DS-AURC near ‰: ") for line in lines)
    assert main(["runs", "show", "last", "--output", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run"] == "young"
    assert shown["metrics"] == {"val/accuracy": 0.75, "val/aurc": 0.125}
    assert shown["size"] == sum(
        file.stat().st_size for file in (output / "young").rglob("*") if file.is_file()
    )


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, False), ("", 1, True), ("n", 1, True)])
def test_rm_asks(output, answer, code, left, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer if "delete old, s (" in question else "?")
    assert main(["runs", "rm", "old", str(output / "s"), "--output", str(output)]) == code
    assert (output / "old").exists() == (output / "s").exists() == left
    assert (output / "young").exists()


def test_rm_without_a_terminal_wants_yes(output, capsys):
    assert main(["runs", "rm", "old", "--output", str(output)]) == 2
    assert "wanted --yes" in capsys.readouterr().err
    assert main(["runs", "rm", "old", "--output", str(output), "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": [str(output / "old")]}
    assert sorted(path.name for path in output.iterdir()) == ["s", "young"]
    assert main(["runs", "rm", "old", "--output", str(output), "--yes"]) == 2
    assert "run: got 'old', wanted a run or a sweep" in capsys.readouterr().err


def test_last_is_what_was_started_last(output):
    assert RunFolder.open("last", str(output)).name == "young"
    assert Sweep.open("last", str(output)).name == "s"
    assert find_folder("last", output, "config.yaml", SWEEP_FILE) == output / "young"
    started(output / "young" / "config.yaml", 1e9 - 1)
    assert RunFolder.open("last", str(output)).name == "old"
    old = RunFolder.open("old", str(output))
    started(output / "young" / "config.yaml", 2e9 - 1)
    old.change_config(old.config(), 3)  # as a resume does
    started(output / "young" / "config.yaml", 1.1e9)
    assert RunFolder.open("last", str(output)).name == "old"
    with pytest.raises(ConfigError, match="run: got 'last', wanted a run folder"):
        RunFolder.open("last", str(output / "nowhere"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "last"])
def test_names_that_are_no_folders_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=f"--name: got {name!r}"):
        free_folder(name, str(tmp_path))


def test_a_name_is_used_once(output, capsys):
    assert main(["train", "digits_ce", "--name", "old", f"output={output}"]) == 2
    assert "old exists already; --resume old continues it" in capsys.readouterr().err
    assert main(["train", "--resume", "old", "--name", "new", "--output", str(output)]) == 2
    assert "--resume: cannot be combined with --name" in capsys.readouterr().err
