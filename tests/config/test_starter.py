"""The recipe that `rtk init` writes: settings that fit the pictures, and nothing of other people's."""

import pytest

from rtk.config.load import build_config, kept_builtin, load_with_origins
from rtk.config.starter import Pictures, Pretrained, batch_size, epochs, image_size, starter_recipe
from rtk.config.yaml_files import parse_yaml


def pictures(**values):
    given = {
        "classes": ("no: 1", "über"),
        "sets": {"train": "data/a b/train.parquet"},
        "rows": 420,
        "width": (200, 640),
        "height": (150, 480),
        "side": 150,
    }
    return Pictures(**(given | values))


@pytest.mark.parametrize(
    ("side", "wanted"), [(8, 32), (32, 32), (47, 32), (64, 64), (150, 128), (224, 224), (3000, 224)]
)
def test_models_see_no_more_pixels_than_there_are(side, wanted):
    assert image_size(pictures(side=side)) == wanted


@pytest.mark.parametrize(
    ("rows", "batch", "length"), [(40, 8, 100), (420, 32, 100), (2000, 64, 96), (1_000_000, 64, 15)]
)
def test_length_and_batch_follow_the_number_of_images(rows, batch, length):
    assert (batch_size(rows), epochs(pictures(rows=rows))) == (batch, length)


def test_the_text_is_a_valid_recipe_of_these_sets_alone():
    text = starter_recipe(pictures(), "mine.yaml")
    data = build_config(parse_yaml(text)).data
    assert (data.train, data.validation, data.test) == ("data/a b/train.parquet", None, None)
    assert (data.validation_fraction, data.image_size) == (0.15, 128)
    assert (data.exif, data.jpeg) == ("apply", "reduced")
    assert data.near_ood == data.far_ood == data.validation_near_ood == {}
    assert "2 classes (no: 1, über), 420 training images" in text
    assert max(map(len, text.splitlines())) <= 110


def test_sets_that_are_there_are_named():
    sets = {"train": "t", "validation": "v", "test": "x"}
    config = build_config(parse_yaml(starter_recipe(pictures(sets=sets), "mine.yaml")))
    assert (config.data.validation, config.data.test) == ("v", "x")
    assert config.model.name == "resnet18_imagenet"
    small = build_config(parse_yaml(starter_recipe(pictures(side=32), "mine.yaml")))
    assert small.model.name == "resnet18"


def test_pretrained_weights_bring_their_backbone_and_a_short_run():
    weights = Pretrained("w.pth", {"name": "dinov3_s16", "mean": [0.4, 0.4, 0.4]})
    config = build_config(parse_yaml(starter_recipe(pictures(pretrained=weights), "mine.yaml")))
    model = config.model
    assert (model.name, model.weights, model.head_weights) == ("dinov3_s16", "w.pth", "new")
    assert model.mean == (0.4, 0.4, 0.4)
    assert (config.optimizer.name, config.optimizer.lr, config.train.duration) == ("adamw", 1e-4, "30ep")
    many = build_config(parse_yaml(starter_recipe(pictures(rows=50_000, pretrained=weights), "mine.yaml")))
    assert many.train.duration == "10ep"
    convolutional = Pretrained("w.pth", {"name": "timm/tf_efficientnet_lite0"})
    config = build_config(parse_yaml(starter_recipe(pictures(pretrained=convolutional), "mine.yaml")))
    assert config.optimizer.lr == 1e-3


def test_digits_that_stay_beside_another_training_set_are_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: digits_ce\ndata: {train: a.parquet, validation: null, test: b.parquet, near_ood: {}}\n"
    )
    kept = kept_builtin(load_with_origins(tmp_path / "mine.yaml"))
    assert kept == {
        "data.far_ood.photos": "recipe digits_ce",
        "data.validation_near_ood.halves": "recipe digits_ce",
        "data.validation_far_ood.noise": "recipe digits_ce",
    }
    by_override = kept_builtin(load_with_origins("digits_ce", ["data.train=a.parquet"]))
    assert {"data.validation", "data.test", "data.near_ood.digits89"} < set(by_override)


def test_digits_that_are_wanted_are_not_named(tmp_path):
    assert kept_builtin(load_with_origins("digits_demo", ["train.duration=1ep"])) == {}
    (tmp_path / "mine.yaml").write_text(
        "data: {train: a.parquet, far_ood: {digits: 'builtin:digits/test.parquet'}}\n"
    )
    assert kept_builtin(load_with_origins(tmp_path / "mine.yaml")) == {}
    given = ["data.near_ood.digits=builtin:digits/test.parquet"]
    (tmp_path / "mine.yaml").write_text("data: {train: a.parquet}\n")
    assert kept_builtin(load_with_origins(tmp_path / "mine.yaml", given)) == {}
