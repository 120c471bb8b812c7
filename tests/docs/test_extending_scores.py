"""The examples of docs/extending.md, used as a reader would: scores, a backbone, a source of images."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rtk.cli import main
from rtk.config import load_config
from rtk.config.model import ModelConfig
from rtk.config.plugin_files import PluginFile, load_plugins
from rtk.data.decode.pipeline import decode_datasets, evaluation_selection
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.model import load_model
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.models import build_model
from rtk.runs.folder import RunFolder
from rtk.scores import compute_image_score, fit_image_score
from tests.docs.examples import EXAMPLES, restored_tables

RECIPE = """
base: digits_ce
plugins: [my_score.py, my_image_score.py, my_backbone.py]
model: {name: tiny_net, width: 8}
data: {train_rows: 192}
train: {duration: 2steps, workers: 1}
evaluate: {ood_score: class_cosine, scores: [msp, class_cosine, flip_agreement], batch_size: 64}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, fresh_tables):
    """A user's folder with copies of the examples; tables as in a new process."""
    for path in EXAMPLES.glob("my_*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_scores_and_a_backbone_from_recipe_to_prediction(ray_session, folder, fresh_tables, capsys):
    (folder / "mine.yaml").write_text(RECIPE)
    assert main(["train", "mine.yaml", "--json"]) == 0
    run = RunFolder(Path(json.loads(capsys.readouterr().out)["path"]))
    assert list(run.read_json("environment.json")["plugins"]) == [
        "my_score.py",
        "my_image_score.py",
        "my_backbone.py",
    ]
    kept = {path.name: path.rename(path.with_suffix(".kept")) for path in folder.glob("my_*.py")}
    fresh_tables()  # from here on only the run's own copies are left
    assert main(["evaluate", str(run.path), "--risk", "0.97", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"class_cosine", "flip_agreement"} <= result["scores"].keys()
    _check_image_score(run)
    assert main(["export", str(run.path), "--no-mlflow"]) == 0
    needed = json.loads((run.path / "export" / "model.json").read_text())["plugins"]
    assert needed == {name: PluginFile.read(kept[name]).sha256 for name in ("my_backbone.py", "my_score.py")}
    _check_prediction(run, folder, kept, fresh_tables, capsys)
    changed = run.path / "plugins" / "my_score.py"
    changed.write_text(changed.read_text() + "# changed\n")
    for command in (
        ["evaluate", str(run.path)],
        ["train", "--resume", str(run.path), "train.duration=3steps"],
    ):
        assert main(command) == 2
        assert "my_score.py has changed: SHA-256" in capsys.readouterr().err


def _check_image_score(run):
    """The column of the actors is what the pure functions give for the model and the validation images."""
    path = run.evaluation / "predictions" / "flip_agreement.safetensors"
    stamp = read_stamp(path.with_name("test.parquet"))["scores"]["flip_agreement"]
    assert stamp["plugin"] == run.read_json("environment.json")["plugins"]["my_image_score.py"]
    config, model = run.config(), load_model(run)

    def images(name):
        dataset = open_dataset(resolve_path(getattr(config.data, name)))
        decoded = decode_datasets({name: evaluation_selection(config.data, dataset, None)})[name]
        return torch.from_numpy(decoded.images).float() / 255, torch.from_numpy(decoded.labels)

    held_out = images("validation")
    assert len(held_out[1]) > config.evaluate.batch_size  # the fit has merged several parts
    usual = fit_image_score("flip_agreement", model, [], [held_out])
    expected = compute_image_score("flip_agreement", model, images("test")[0], usual)
    found = read_predictions(path.with_name("test.parquet"))["flip_agreement"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def _check_prediction(run, folder, kept, fresh_tables, capsys):
    table = pq.read_table(resolve_path("builtin:digits/test.parquet")).slice(0, 5)
    pq.write_table(table, folder / "five.parquet")
    command = ["predict", str(run.path / "export"), "five.parquet", "--jsonl"]
    fresh_tables()
    assert main(command) == 2
    assert "wanted its plug-in my_backbone.py of SHA-256" in capsys.readouterr().err
    (folder / "my_score.py").write_text(kept["my_score.py"].read_text() + "# changed\n")
    others = ["--plugin", str(kept["my_backbone.py"])]
    assert main([*command, *others, "--plugin", "my_score.py"]) == 2
    assert "got one of SHA-256" in capsys.readouterr().err
    assert main([*command, *others, "--plugin", str(kept["my_score.py"])]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 5
    assert all(-1 <= row["ood_score"] <= 1 for row in rows)


def test_a_source_of_images(folder, capsys):
    (folder / "photos").mkdir()
    labels = {"a.png": "dog", "b.png": "cat", "c.png": "dog"}
    for number, name in enumerate(labels):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "photos" / name)
    table = "\n".join(["file,label", *(",".join(row) for row in labels.items())])
    (folder / "photos" / "labels.csv").write_text(table)
    command = ["data", "prepare", "photos", "--out", "data", "--plugin", "my_source.py", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "folder with labels.csv"
    dataset = open_dataset(folder / "data" / "all.parquet")
    assert dataset.classes == ("cat", "dog")
    assert pq.read_table(folder / "data" / "all.parquet")["label"].to_pylist() == [1, 0, 1]
    assert main(["data", "prepare", "my_source.py", "--out", "more", "--plugin", "my_source.py"]) == 2
    assert "a folder of images with labels.csv (file, label)" in capsys.readouterr().err


def test_a_backbone(folder):
    load_plugins(["my_backbone.py"])
    model = build_model(ModelConfig(name="tiny_net", width=8, freeze_layers=1), 5)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(name.startswith("backbone.layers.0") for name in frozen)
    with pytest.raises(ValueError, match="model.pool: got 'avg', tiny_net has none"):
        build_model(ModelConfig(name="tiny_net", pool="avg"), 5)


def test_a_recipe_sets_keys_that_its_own_files_add(folder, fresh_tables):
    with restored_tables():
        keys = "objective: {early_learning: {weight: 2}}\nlookahead: {every: 3}\n"
        (folder / "mine.yaml").write_text(f"base: digits_ce\nplugins: [my_term.py, my_method.py]\n{keys}")
        config = load_config("mine.yaml", ["objective.early_learning.decay=0.9"])
        run = RunFolder.create(config)
        sent = pickle.dumps(run.config())
    fresh_tables()
    with restored_tables():
        again = pickle.loads(sent)
        assert (again.objective.early_learning.decay, again.lookahead.every) == (0.9, 3)
        assert again == run.config()
