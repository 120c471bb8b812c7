"""The demo's own recipes, from the command line, shortened; and the demo of one's own pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtk.cli import build_parser, main
from rtk.commands import demo, demo_photos
from rtk.data.sets.dataset import open_dataset
from tests.train.ranks import workers_forked


@pytest.mark.parametrize("option", ["--output", "--out"])
def test_the_folder_of_the_runs_has_the_same_option_as_elsewhere(option):
    assert build_parser().parse_args(["demo", option, "2024"]).output == "2024"


@pytest.mark.slow
def test_demo_prints_one_json_object_of_the_documented_form(tmp_path, capsys, monkeypatch, ray_session):
    for name, recipe in demo.RECIPES.items():
        shorter = f"base: {recipe}\nmodel: {{width: 4}}\ntrain: {{duration: 1ep}}\n"
        (tmp_path / f"{name}.yaml").write_text(shorter)
    monkeypatch.setattr(demo, "RECIPES", {name: f"{name}.yaml" for name in demo.RECIPES})
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output", "2024", "--json"]) == 0  # a name that YAML would take for a number
    assert len(list((tmp_path / "2024").glob("*/config.yaml"))) == 2
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"baseline", "sure_plus", "report"}
    keys = "accuracy aurc e_aurc auroc_near auroc_far fpr95_near fpr95_far "
    keys += "ds_f1_near ds_f1_far ds_aurc_near ds_aurc_far"
    for name in ("baseline", "sure_plus"):
        assert set(keys.split()) <= set(result[name])
        assert all(0 <= result[name][key] <= 1 for key in keys.split())
    assert "<svg" in Path(result["report"]).read_text()


# ---------------------------------------------------------------- one's own pictures


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A dozen noisy pictures of each of three classes; the working folder is another."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for count in range(12):
            pixels = generator.integers(80 * number, 80 * number + 90, (36, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "insects" / name / f"{count}.png")
    return tmp_path / "insects"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "ant"], "--hold-out: wanted --photos DIR with it"),
        (["--photos", "insects", "--model", "resnet18"], "--model: wanted --weights FILE with it"),
        (["--photos", "nowhere"], "--photos: nowhere does not exist"),
        (["--photos", "insects", "--hold-out", "dog"], "got 'dog', wanted one of three or more classes"),
        (["--photos", "insects", "--weights", "no.pth"], "no.pth"),
    ],
)
def test_what_does_not_fit_is_refused(photos, arguments, message, capsys):
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_class_held_out_is_in_no_set_but_its_own(photos, capsys):
    options = build_parser().parse_args(
        ["demo", "--photos", "insects", "--hold-out", "bee", "--images", "10"]
    )
    configs = demo_photos.make_configs(options, demo_photos.find_home(options))
    plus, plain = configs["sure_plus"], configs["baseline"]
    assert (plus.sharpness.variant, plus.averaging.kind) == ("fsam", "ema")
    assert (plain.sharpness.variant, plain.averaging.kind) == ("none", "none")
    assert plain.data == plus.data
    train, held_out = open_dataset(plus.data.train), open_dataset(plus.data.near_ood["held_out"])
    assert (train.classes, train.rows) == (("ant", "cat"), 10)
    assert (held_out.classes, held_out.rows) == (("bee",), 12)
    assert "train 10, validation 4, test 4, held out 12 images" in capsys.readouterr().err


@pytest.mark.slow
def test_photos_end_in_a_comparison(photos, monkeypatch, capsys, ray_session):
    tiny = ["model.width=4", "train.duration=1ep", "data.image_size=16", "data.augment.crop_padding=2"]
    monkeypatch.setattr(demo_photos, "make_quick", lambda pictures: [*tiny, "evaluate.knn_k=2"])
    with workers_forked():
        assert main(["demo", "--photos", "insects", "--hold-out", "cat", "--seeds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("baseline", "sure_plus"):
        (metrics,) = result[name]
        assert {"accuracy", "aurc", "ds_aurc_near", "ds_f1_far"} <= set(metrics)
    assert "<svg" in Path(result["report"]).read_text()
    assert "sure_plus" in Path(result["comparison"]).read_text()
