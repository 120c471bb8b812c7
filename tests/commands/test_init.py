"""`rtk init`: a folder of pictures in, prepared sets and a recipe that trains on them alone out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rtk.cli import main
from rtk.config.load import load_config
from rtk.config.model import ModelConfig
from rtk.data.sets.dataset import open_dataset
from rtk.models import build_model


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes in two splits, a quarter of the pictures stored turned; the working folder is another."""
    monkeypatch.chdir(tmp_path)
    rng, exif = np.random.default_rng(0), Image.Exif()
    for split, count in (("train", 8), ("test", 2)):
        for name in ("ant", "bee"):
            folder = tmp_path / "my photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                exif[0x0112] = 6 if number % 4 == 0 else 1
                pixels = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png", exif=exif)
    return tmp_path / "my photos"


def test_raw_pictures_are_prepared_and_get_a_recipe(photos, tmp_path, capsys):
    assert main(["init", "my photos"]) == 0
    assert "next: rtk train my_photos.yaml" in capsys.readouterr().out
    config = load_config("my_photos.yaml")
    assert (config.name, config.data.train) == ("my_photos", "data/my_photos/train.parquet")
    assert (config.data.test, config.data.validation) == ("data/my_photos/test.parquet", None)
    assert (config.data.image_size, config.model.name) == (32, "resnet18")
    assert "25% are stored turned" in (tmp_path / "my_photos.yaml").read_text()
    assert main(["recipes", "validate", "my_photos.yaml"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["init", "my photos"]) == 2
    assert "--out: my_photos.yaml exists already" in capsys.readouterr().err


def test_pictures_that_are_not_split_are_split(photos, capsys):
    assert main(["init", "my photos/train", "--out", "mine.yaml", "--data", "sets"]) == 0
    data = load_config("mine.yaml").data
    paths = [data.train, data.validation, data.test]
    assert paths == [f"sets/{part}.parquet" for part in ("train", "validation", "test")]
    assert [open_dataset(path).rows for path in paths] == [11, 3, 2]
    main(["init", "my photos/train", "--out", "two.yaml", "--data", "two", "--split", "0.5/0/0.5"])
    data = load_config("two.yaml").data
    assert (open_dataset(data.train).rows, data.validation) == (8, None)


def test_prepared_sets_are_taken_as_they_are(photos, tmp_path, capsys):
    main(["data", "prepare", "my photos", "--out", "sets"])
    capsys.readouterr()
    assert main(["init", "sets", "--out", "mine.yaml", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == ["ant", "bee"]
    assert load_config("mine.yaml").data.train == said["train"] == "sets/train.parquet"
    assert main(["init", "sets/test.parquet", "--out", "one.yaml"]) == 0
    assert load_config("one.yaml").data.train == "sets/test.parquet"
    assert "test: none yet" in capsys.readouterr().out
    (tmp_path / "sets" / "train.parquet").unlink()
    assert main(["init", "sets", "--out", "two.yaml"]) == 2
    assert "sets holds test.parquet, wanted train.parquet" in capsys.readouterr().err


def test_weights_say_which_backbone_they_are_of(photos, tmp_path, capsys):
    main(["data", "prepare", "my photos", "--out", "sets"])
    model = build_model(ModelConfig(width=4), 7, 32)
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, "w.pth.tar")
    assert main(["init", "sets", "--weights", "w.pth.tar", "--out", "mine.yaml"]) == 0
    found = load_config("mine.yaml").model
    assert (found.name, found.width, found.head_weights) == ("resnet18", 4, "new")
    torch.save({"other.weight": torch.ones(2)}, "other.pth")
    capsys.readouterr()
    arguments = ["init", "sets", "--weights", "other.pth", "--model", "resnet18", "--out", "two.yaml"]
    assert main(arguments) == 2
    assert "missing" in capsys.readouterr().err
    assert not (tmp_path / "two.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["my photos", "--model", "resnet50"], "--model: wanted --weights FILE"),
        (["my photos", "--weights", "nowhere.pth"], "model.weights: got 'nowhere.pth'"),
        (["my photos", "--out", "nowhere/a.yaml"], "--out: cannot write nowhere/a.yaml"),
    ],
)
def test_bad_usage_is_one_line_and_writes_no_recipe(photos, tmp_path, capsys, arguments, message):
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*.yaml")) == []
