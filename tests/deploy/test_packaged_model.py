"""Packaged models: what is saved is what is loaded, and nothing is unpickled."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from rtk.config import ConfigError
from rtk.config.model import ModelConfig
from rtk.config.plugin_files import plugin_hashes
from rtk.data.image import decode_rgb
from rtk.data.views.augment import to_float
from rtk.deploy.packaged_model import PackagedModel, Preprocessing, _load_pyfunc
from rtk.deploy.predict import open_model
from rtk.metrics.prediction_sets import SetRule
from rtk.models import build_model
from rtk.scores import Predictions, apply_score
from rtk.scores.decision import Guarantee, decide
from rtk.scores.joint_rule import JointRule
from tests.deploy.random_package import CLASSES, SIDE, encoded, picture


def test_what_is_loaded_says_the_same_and_nothing_is_unpickled(packaged, folder):
    images = [encoded(seed) for seed in range(20)]
    rows = PackagedModel.load(folder, "cpu").predict(images)
    assert rows == packaged.predict(images)
    pixels = torch.from_numpy(np.stack([picture(seed) for seed in range(20)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits, features = packaged.model.forward_features(to_float(pixels.contiguous()))
    probability, label = logits.softmax(1).max(1)
    ood = apply_score("knn", packaged.scores["knn"], Predictions(logits, features, label))
    assert [row["label"] for row in rows] == [CLASSES[index] for index in label]
    np.testing.assert_allclose([row["probability"] for row in rows], probability, rtol=1e-5)
    np.testing.assert_allclose([row["ood_score"] for row in rows], ood, rtol=1e-4)
    expected = decide(probability, ood, packaged.rule.tau_id, packaged.rule.tau_ood)
    assert [row["decision"] for row in rows] == expected.tolist()
    assert len({row["decision"] for row in rows}) > 1


def test_a_promise_and_sets_of_classes_travel_with_the_model(packaged, tmp_path):
    rule = replace(
        packaged.rule,
        tau_id=2.0,  # none is accepted
        tau_ood=-1e9,
        guarantee=Guarantee("ltt", 0.95, 800, "f00"),
        sets=SetRule("lac", 0.9, 1.0, 50),  # every class
    )
    replace(packaged, rule=rule).save(tmp_path)
    loaded = PackagedModel.load(tmp_path, "cpu")
    assert loaded.rule == rule
    bad, good = loaded.predict([b"no image", encoded(0)])
    assert good["decision"] == "likely-wrong"
    assert good["candidates"] == CLASSES
    assert bad.get("candidates") is None
    assert "candidates" not in packaged.predict([encoded(0)])[0]
    some = replace(rule, tau_by_class=[None] * (len(CLASSES) - 1) + [-1.0], sets=None)
    replace(packaged, rule=some).save(tmp_path / "by_class")
    rows = PackagedModel.load(tmp_path / "by_class", "cpu").predict([encoded(seed) for seed in range(20)])
    assert all((row["decision"] == "accept") == (row["label"] == CLASSES[-1]) for row in rows)


def test_a_joint_rule_travels_with_the_model_and_a_broken_one_is_refused(packaged, tmp_path):
    joint = JointRule("linear", [0.0, 1.0], [-9.0, 0.0], [0.0, 1.0], [0.0, 1.0], [])
    replace(packaged, rule=replace(packaged.rule, joint=joint, tau_id=1.2)).save(tmp_path)
    loaded = PackagedModel.load(tmp_path, "cpu")
    assert loaded.rule.joint == joint
    rows = loaded.predict([encoded(seed) for seed in range(20)])
    scores = joint.score(*([row[key] for row in rows] for key in ("confidence", "ood_score")))
    assert [row["decision"] == "accept" for row in rows] == (scores >= 1.2).tolist()
    described = json.loads((tmp_path / "model.json").read_text())
    described["rule"]["joint"]["ood_values"] = [0.0]
    (tmp_path / "model.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="joint: got values"):
        PackagedModel.load(tmp_path, "cpu")
    described["rule"] |= {"joint": None, "tau_by_class": [0.5]}
    (tmp_path / "model.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="tau_by_class: got 1 thresholds"):
        PackagedModel.load(tmp_path, "cpu")


def test_a_reject_class_is_never_predicted(packaged, tmp_path):
    """OpenMix's last output is left out wherever a model predicts, as in its published evaluation."""
    config = ModelConfig(width=4, reject_class=True)
    model = build_model(config, len(CLASSES), SIDE).eval()
    with torch.no_grad():
        model.head.bias[-1] = 100.0
        pixels = to_float(torch.from_numpy(picture(0)).permute(2, 0, 1)[None])
        rejecting = model.head.train()(model.forward_features(pixels)[1])
    assert rejecting.shape == (1, len(CLASSES) + 1)
    logits = rejecting[:, : len(CLASSES)]
    rule = replace(packaged.rule, ood_score="msp")
    scores = {"msp": packaged.scores["msp"]}
    replace(packaged, model=model, config=config, rule=rule, scores=scores).save(tmp_path)
    (row,) = PackagedModel.load(tmp_path, "cpu").predict([encoded(0)])
    assert row["label"] == CLASSES[logits.argmax()]
    assert row["probability"] == pytest.approx(logits.softmax(1).max().item(), rel=1e-5)


def test_an_image_that_cannot_be_read_costs_only_itself(packaged):
    good, bad, other = packaged.predict([encoded(0), b"no image", encoded(1)])
    assert bad["decision"] is None
    assert "no image in a supported format" in bad["error"]
    assert [good, other] == packaged.predict([encoded(0), encoded(1)])


def test_mlflow_loads_it_by_its_module(packaged, folder, monkeypatch):
    import pandas as pd

    table = _load_pyfunc(str(folder)).predict(pd.DataFrame({"image": [encoded(0), encoded(1)]}))
    assert table.to_dict("records") == packaged.predict([encoded(0), encoded(1)])


def test_whoever_may_read_its_description_may_read_its_weights(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert len(list(folder.iterdir())) == 3


def test_another_format_is_refused(folder):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(ConfigError, match="format 99, wanted 1"):
        open_model(str(folder))


def test_images_are_brought_to_size_as_in_the_evaluation(packaged, tmp_path):
    settings = Preprocessing(SIDE, 0.8, "bicubic", jpeg="reduced")
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (200, 150, 3), dtype=np.uint8))
    buffer = BytesIO()
    image.save(buffer, "JPEG")
    how = {"crop_share": 0.8, "interpolation": "bicubic"}
    wanted = decode_rgb(buffer.getvalue(), SIDE, jpeg="reduced", **how)
    assert not np.array_equal(wanted, decode_rgb(buffer.getvalue(), SIDE, **how))
    replace(packaged, preprocessing=settings).save(tmp_path)
    loaded = PackagedModel.load(tmp_path)
    assert loaded.preprocessing == settings
    np.testing.assert_array_equal(loaded.preprocessing(buffer.getvalue()), wanted)
    assert not np.array_equal(wanted, packaged.preprocessing(buffer.getvalue()))


def test_a_package_says_whether_pictures_are_turned_and_an_old_one_turns_none(packaged, tmp_path):
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(buffer, "PNG", exif=exif)
    turned = np.rot90(picture(0), -1)
    assert packaged.preprocessing.exif == "apply"
    replace(packaged, preprocessing=Preprocessing(SIDE, exif="ignore")).save(tmp_path / "ignore")
    packaged.save(tmp_path / "apply")
    for name, wanted in (("apply", turned), ("ignore", picture(0))):
        loaded = PackagedModel.load(tmp_path / name)
        np.testing.assert_array_equal(loaded.preprocessing(buffer.getvalue()), wanted)
    description = json.loads((tmp_path / "apply" / "model.json").read_text())
    del description["preprocessing"]["exif"]
    (tmp_path / "apply" / "model.json").write_text(json.dumps(description))
    old = PackagedModel.load(tmp_path / "apply")
    np.testing.assert_array_equal(old.preprocessing(buffer.getvalue()), picture(0))


def test_a_model_that_needs_a_users_file_names_it_and_is_refused_without(packaged, tmp_path, fresh_tables):
    packaged.save(tmp_path / "plain")
    assert "plugins" not in json.loads((tmp_path / "plain" / "model.json").read_text())
    row = "from rtk import scores\nscores.register(scores.Score('mine', lambda logits: logits.amax(1)))\n"
    mine, other = tmp_path / "mine.py", tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    mine.write_text(row)
    other.write_text(f"{row}# changed\n")
    hashes, others = plugin_hashes([str(mine)]), plugin_hashes([str(other)])
    replace(packaged, plugins=hashes).save(tmp_path / "package")
    wanted = f"model: wanted its plug-in mine.py of SHA-256 {hashes['mine.py']}"
    with pytest.raises(ConfigError, match=f"{wanted}, got none; give it by rtk predict --plugin FILE"):
        PackagedModel.load(tmp_path / "package")
    with pytest.raises(ConfigError, match=f"{wanted}, got one of SHA-256 {others['mine.py']}"):
        PackagedModel.load(tmp_path / "package", plugins=[other])
    assert PackagedModel.load(tmp_path / "package", plugins=[mine]).plugins == hashes
    assert open_model(str(tmp_path / "package")).plugins == hashes  # it is loaded by now
