"""The command line as a user meets it: its output and its exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtk.cli import main
from tests.train.ranks import workers_forked


def test_help_loads_nothing_heavy():
    heavy = {"torch", "ray", "numpy", "yaml"}
    code = f"import sys, rtk.cli; rtk.cli.build_parser(); print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits_demo", "optimzer.lr=1"], "nearest valid key is 'optimizer.lr'"),
        (["train", "digits_demo", "data.train=/nowhere"], "data.train: .*/nowhere"),
        (["train", "digits_demo", "data.train=builtin:cats/x"], "there is builtin:digits"),
        (["train", "nope"], "wanted a YAML file or one of"),
        (["train"], "recipe: got none"),
        (
            ["train", "digits_demo", "model.name=resnet51"],
            "model.name: got 'resnet51', wanted one of resnet18, .*, or timm/NAME",
        ),
        (
            ["train", "digits_demo", "train.duration=0ep"],
            "train.duration: got '0ep', wanted at least one step",
        ),
        (
            ["train", "digits_demo", "train.batch_size=4096"],
            "train.batch_size: got 4096, wanted at most the 865",
        ),
        (["train", "digits_demo", "data.near_ood.x=/nowhere"], "data.near_ood.x: .*/nowhere"),
        (["train", "digits_demo", "--resume", "x", "--dry-run"], "--resume: cannot be combined"),
        (["train", "--resume", "nowhere"], "run: got 'nowhere', wanted a run folder"),
        (["evaluate", "nowhere"], "run: got 'nowhere', wanted a run folder"),
        (["data", "inspect", "/nowhere"], "/nowhere"),
        (["recipes", "validate", "digits_demo", "seed=-1"], "seed: got -1"),
        (
            ["recipes", "validate", "digits_demo", "evaluate.scores=[mpsx]"],
            "score: got 'mpsx', wanted one of msp",
        ),
        (["train", "digits_demo", "evaluate.ood_score=kn"], "score: got 'kn', wanted one of msp"),
        (["metrics", "/nowhere"], "scores: got '/nowhere', wanted a Parquet file"),
        (["sync", "--output", "/nowhere"], "--output: there is no folder '/nowhere'"),
        (["export", "x", "--register", "a/b"], "--register: got 'a/b', wanted a name without / and :"),
        (["train", "digits_demo", "tracking.experiment="], "tracking.experiment"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("rtk: error: ")
    assert error.count("\n") == 1


def test_unwritable_output_folder(tmp_path, capsys, ray_session):
    (tmp_path / "file").write_text("in the way")
    assert main(["train", "digits_ce", f"output={tmp_path}/file"]) == 2
    assert "output: cannot write to" in capsys.readouterr().err


def test_zero_classes_and_labels_out_of_range(tmp_path, capsys, rtk_like_parquet):
    assert (
        main(["train", "digits_ce", f"data.train={rtk_like_parquet(labels=[0, 7], classes=['a', 'b'])}"]) == 2
    )
    assert "label 7 in row 1 is out of range, there are 2 classes" in capsys.readouterr().err
    assert main(["train", "digits_ce", f"data.train={rtk_like_parquet(labels=[0], classes=[])}"]) == 2
    assert "class" in capsys.readouterr().err


@pytest.fixture
def rtk_like_parquet(tmp_path):
    """Make a Parquet file of tiny images with the given labels and classes."""

    def make(labels, classes):
        import pyarrow as pa
        import pyarrow.parquet as pq

        from rtk.data.image import encode_png

        folder = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        images = [encode_png(np.zeros((32, 32, 3), np.uint8)) for _ in labels]
        pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
        (folder / "classes.json").write_text(json.dumps({"classes": classes}))
        return folder / "train.parquet"

    return make


def test_print_config_says_where_values_come_from(capsys):
    assert main(["train", "digits_demo", "sharpness.rho=0.1", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"sharpness.rho: 0.1\s+# override", line) for line in lines)
    assert any(re.match(r"model.width: 8\s+# recipe digits_ce", line) for line in lines)
    assert main(["train", "digits_demo", "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == {"value": 0, "origin": "default"}


def test_output_is_a_folder_of_new_runs_too(capsys, tmp_path):
    assert main(["train", "digits_demo", "--output", str(tmp_path), "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"]["value"] == str(tmp_path)


def test_recipes(tmp_path, capsys):
    assert main(["recipes", "ls", "--json"]) == 0
    assert "digits_demo" in json.loads(capsys.readouterr().out)
    mine = tmp_path / "mine.yaml"
    assert main(["recipes", "cp", "digits_demo", str(mine)]) == 0
    assert main(["recipes", "validate", str(mine)]) == 0
    assert main(["recipes", "cp", "digits_demo", str(mine)]) == 2
    assert main(["recipes", "cat", "digits_demo"]) == 0
    assert mine.read_text() in capsys.readouterr().out


def test_prepare_and_inspect(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 16), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "dog" / "broken.png").write_bytes(b"no image")
    source, out = str(tmp_path / "photos"), str(tmp_path / "prepared")
    assert main(["data", "prepare", source, "--out", out]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not Path(out).exists()
    assert main(["data", "prepare", source, "--out", out, "--skip-bad"]) == 0
    assert re.search(r"6 images, 2 classes.*skipped.*: 1\n.*broken.png", capsys.readouterr().out, re.DOTALL)
    sheet = tmp_path / "sheet.png"
    assert main(["data", "inspect", out, "--sheet", str(sheet)]) == 0
    assert "6 images, 2 classes" in capsys.readouterr().out
    assert Image.open(sheet).width > 20


@pytest.mark.slow
def test_dry_run_keeps_nothing(tmp_path, monkeypatch, capsys, ray_session):
    monkeypatch.chdir(tmp_path)
    with workers_forked():
        assert main(["train", "digits_demo", "model.width=4", "--dry-run", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {
        "training step, validation, checkpoint": "finished",
        "evaluation": "2 OOD sets",
        "report": "written",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_doctor(capsys, ray_session):
    assert main(["doctor", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    checks = json.loads(printed.out)
    assert checks["2-worker collective"]["ok"]
    assert "torch" in checks["packages"]["found"]
