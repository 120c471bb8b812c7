"""Runs of weights that rtk did not train: made in one piece, told from trained ones, used as these are."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from rtk.cli import main
from rtk.config.load import load_config
from rtk.deploy.predict import open_model
from rtk.evaluate.model import load_model
from rtk.runs.data_record import DataRecord
from rtk.runs.folder import RunFolder
from rtk.runs.origin import read_origin
from rtk.train.imported import import_weights
from rtk.train.initial import check_head, initial_model
from tests.models.dinov3_cases import meta_state
from tests.models.published_networks import CifarResNet, settle

OLD = Path(__file__).parents[1] / "old"
OLD = Path(__file__).parents[1] / "old"
RECIPE, WIDTH, CLASSES = "digits_ce", "model.width=2", 8


@pytest.fixture
def file(tmp_path):
    """OpenOOD's ResNet-18 for the eight classes of the digits, as a trainer saves it."""
    state = {
        f"module.{name}": tensor for name, tensor in settle(CifarResNet(2, CLASSES)).state_dict().items()
    }
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def imported(file, *overrides, name="theirs", classes=None):
    config = load_config(RECIPE, [WIDTH, f"output={file.parent / 'runs'}", *overrides])
    return import_weights(file, config, name, classes)


def command(file, *words, out="runs/theirs"):
    return main(["import", str(file), "--recipe", RECIPE, WIDTH, "--out", str(file.parent / out), *words])


def test_the_run_gives_the_logits_of_the_network(file):
    made = imported(file)
    model, network = load_model(made.run), settle(CifarResNet(2, CLASSES))
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = network((images - model.mean) / model.std)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert made.classes == DataRecord.read(made.run.path).classes == tuple("01234567")
    assert made.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_its_origin_is_kept_and_said(file, capsys):
    assert command(file) == 0
    said = capsys.readouterr().out
    assert "names: of torchvision, OpenOOD, SUREPlus (ResNets: layer1.0.conv1), in state_dict\n" in said
    assert "ignored in the file: epoch, hyper_parameters\n" in said
    origin = read_origin(file.parent / "runs" / "theirs")
    assert (origin.file, origin.ignored) == (str(file), ("epoch", "hyper_parameters"))
    assert origin.sha256 in said
    assert RunFolder(file.parent / "runs" / "theirs").config().model.weights == str(file)


def test_it_is_listed_as_imported_and_cannot_be_resumed(file, capsys):
    run = imported(file).run
    output = str(file.parent / "runs")
    assert main(["runs", "ls", "--output", output]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["theirs", "imported"]
    assert main(["runs", "show", "theirs", "--output", output]) == 0
    shown = capsys.readouterr().out
    assert "status: imported\n" in shown
    assert f"origin: imported, not trained by rtk: {file} (SHA-256 " in shown
    assert main(["train", "--resume", str(run.path)]) == 2
    assert "--resume: theirs was imported" in capsys.readouterr().err


def test_it_is_trained_on_as_any_other_run(file):
    run = imported(file).run
    config = load_config(RECIPE, [WIDTH, f"model.weights={run.path}"])
    check_head(config, tuple("01234567"))
    started, wanted = initial_model(config, CLASSES), load_model(run)
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(started.state_dict()[name], tensor), name
    with pytest.raises(
        ValueError, match="the head of .* is one for other classes: they stand in another order"
    ):
        check_head(config, tuple("76543210"))


def test_names_of_classes_may_be_given_in_the_order_of_the_logits(file):
    (file.parent / "names.json").write_text(json.dumps({"classes": list("76543210")}))
    assert imported(file, classes=file.parent / "names.json").classes == tuple("76543210")
    (file.parent / "plain.json").write_text(json.dumps(list("abcdefgh")))
    there = imported(file, "data.train=/nowhere", name="b", classes=file.parent / "plain.json")
    assert there.classes == tuple("abcdefgh")
    unknown = imported(file, "data.train=/nowhere", name="c")
    assert (unknown.classes, unknown.num_classes) == ((), CLASSES)
    assert "classes" not in json.loads((unknown.run.path / "environment.json").read_text())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ('["0", "1"]', "have other names than the run's"),
        ('{"labels": []}', r'wanted \{"classes": \["name of logit 0", ...\]\}'),
        ("{", "cannot be read"),
        ('["0", "1", "2", "3", "4", "5", "6", "6"]', "'6' is there twice"),
        ('["0", "1", "2", "3", "4", "5", "6", "7", "8"]', "got 9 classes, but .*best.ckpt has 8 logits"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(file, capsys, names, message):
    (file.parent / "names.json").write_text(names)
    assert command(file, "--classes", str(file.parent / "names.json")) == 2
    refused(file, capsys, "--classes .*names.json: .*" + message)


def refused(file, capsys, pattern):
    """One line that says why, and no folder."""
    error = capsys.readouterr().err
    assert error.startswith("rtk: error: ")
    assert error.count("\n") == 1
    assert re.search(pattern, error), error
    assert not (file.parent / "runs" / "theirs").exists()


class Harmful:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_code_in_a_file_is_refused_and_not_run(file, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    torch.save({"state_dict": CifarResNet(2, CLASSES).state_dict(), "hook": Harmful()}, file)
    assert command(file) == 2
    refused(file, capsys, r"best.ckpt is no plain file of tensors \(")
    assert not Path("ran").exists()


def test_a_file_of_unknown_origin_names_the_closest_map_and_five_keys(file, capsys):
    torch.save({f"encoder.{n}.weight": torch.ones(2) for n in range(9)}, file)
    assert command(file) == 2
    refused(
        file,
        capsys,
        r"\(names read as of timm, or the model's own\): missing \(\d+\): (backbone\S+, ){5}...; unexpected",
    )


def test_other_numbers_of_classes_and_files_without_a_classifier_are_refused(file, capsys, golden):
    torch.save(CifarResNet(2, 3).state_dict(), file)
    assert command(file) == 2
    refused(file, capsys, "data.train: got 8 classes, but .*best.ckpt has 3 logits")
    torch.save(meta_state(golden("dinov3_meta")), file)
    assert command(file, "model.name=dinov3_s16", "model.width=null") == 2
    refused(file, capsys, "does not fit the model .names read as of Meta")
    state = CifarResNet(2, 3).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("fc.")}, file)
    assert command(file) == 2
    refused(file, capsys, "holds no classifier, .*model.head_weights=new trains one")


def test_a_folder_that_is_there_is_kept(file, capsys):
    (file.parent / "runs" / "theirs").mkdir(parents=True)
    assert command(file) == 2
    assert "theirs exists already; wanted a new folder" in capsys.readouterr().err
    assert command(file.parent / "nowhere.pth", out="runs/b") == 2
    assert "nowhere.pth', wanted a PyTorch" in capsys.readouterr().err


def test_everything_that_is_done_with_a_run_is_done_with_it(file, capsys, ray_session, photo):
    """Evaluated (with other images to fit scores on), reported, compared with a trained one, packaged."""
    runs = file.parent / "runs"
    imported(file, "data.train=/nowhere")
    shutil.copytree(OLD / "run", runs / "ours")
    output = ["--output", str(runs)]
    words = ["data.train_rows=160", "evaluate.scores=[msp, energy, knn]", "--risk", "0.9"]
    assert main(["evaluate", "theirs", "data.train=builtin:digits/train.parquet", *words, *output]) == 0
    assert DataRecord.read(runs / "theirs").classes == tuple("01234567")
    said = "theirs: imported, not trained by rtk: "
    assert said in (runs / "theirs" / "evaluation" / "report.html").read_text()
    capsys.readouterr()
    assert main(["compare", "theirs", "ours", *output]) == 0
    assert said in capsys.readouterr().out
    assert main(["export", "theirs", "--no-mlflow", *output]) == 0
    (answer,) = open_model("theirs", str(runs)).predict([photo])
    assert answer["label"] in tuple("01234567")
