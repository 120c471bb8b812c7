"""Weights between two ends: their values, the share that is chosen, BatchNorm, and the run they become."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.of_run import RunSets
from rtk.evaluate.model import load_model
from rtk.evaluate.sets import evaluation_config
from rtk.models.batchnorm import batchnorm_layers
from rtk.runs.folder import RunFolder
from rtk.runs.interpolation import read_interpolation
from rtk.runs.origin import said_of
from rtk.runs.results import read_entry
from rtk.train.imported import import_weights
from rtk.train.initial import source_identity, with_placed_weights
from rtk.train.interpolation import (
    Ends,
    best_share,
    interpolate_run,
    interpolated,
    measure_shares,
    read_ends,
    settle_batchnorm,
)
from rtk.train.interpolation_data import open_apart, selections_of
from rtk.train.launch import resume_training
from tests.models.published_networks import CifarResNet, settle

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run as after a fine-tuning of `start.pt`: other weights, which rtk has not trained here."""
    for name, seed in (("start", 0), ("tuned", 1)):
        torch.save(settle(CifarResNet(2, 8), seed).state_dict(), tmp_path / f"{name}.pt")
    config = load_config("digits_ce", ["model.width=2", f"output={tmp_path}", "train.precision=fp32"])
    made = import_weights(tmp_path / "tuned.pt", config, "tuned").run
    (made.path / "origin.json").unlink()
    text = (made.path / "config.yaml").read_text(encoding="utf-8").replace("tuned.pt", "start.pt")
    (made.path / "config.yaml").write_text(text, encoding="utf-8")
    return made


def images(rows, seed, labels=8):
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)
    return ImageArrays(pixels, draw.integers(0, labels, rows), np.arange(rows))


def test_weights_lie_between_the_ends():
    start = {"a": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
    tuned = {"a": torch.tensor([1.0, -2.0]), "count": torch.tensor(7), "new": torch.tensor([5.0])}
    quarter = interpolated(start, tuned, 0.25)
    assert quarter["a"].tolist() == [0.25, 1.0]
    assert (quarter["count"].item(), quarter["new"].item()) == (7, 5.0)
    draw = {"a": torch.randn(1000)}, {"a": torch.randn(1000)}
    assert torch.equal(interpolated(*draw, 0.0)["a"], draw[0]["a"])
    assert torch.equal(interpolated(*draw, 1.0)["a"], draw[1]["a"])


def test_ends_are_the_networks_before_and_after(run, tmp_path):
    ends = read_ends(run, run.config(), "best")
    for alpha, name in ((0.0, "start"), (1.0, "tuned")):
        network = settle(CifarResNet(2, 8), 0 if name == "start" else 1)
        model = ends.at(alpha)
        with torch.no_grad():
            wanted = network((IMAGES - model.mean) / model.std)
            torch.testing.assert_close(model(IMAGES), wanted, rtol=1e-5, atol=1e-5)


def test_a_new_head_is_at_both_ends_the_trained_one(run):
    config = run.config()
    config = config.model_copy(update={"model": config.model.model_copy(update={"head_weights": "new"})})
    ends = read_ends(run, config, "best")
    heads = [ends.at(alpha).head.weight.clone() for alpha in (0.0, 0.5, 1.0)]
    assert torch.equal(heads[0], heads[2])
    assert torch.equal(heads[1], heads[2])
    assert not torch.equal(ends.start["backbone.conv1.weight"], ends.tuned["backbone.conv1.weight"])


def test_batchnorm_is_settled_between_the_ends_only(run):
    config, ends = run.config(), read_ends(run, run.config(), "best")
    train = images(64, 0)
    for alpha in (0.0, 1.0):
        before = [layer.running_mean.clone() for layer in batchnorm_layers(ends.at(alpha))]
        settle_batchnorm(ends.model, train, config, alpha)
        after = [layer.running_mean for layer in batchnorm_layers(ends.model)]
        assert all(map(torch.equal, before, after))
    settle_batchnorm(ends.at(0.5), train, config, 0.5)
    first = batchnorm_layers(ends.model)[0]
    model, pixels = ends.model, torch.from_numpy(train.images).float() / 255
    with torch.no_grad():
        maps = model.backbone.conv1((pixels - model.mean) / model.std)
    torch.testing.assert_close(first.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_every_share_is_measured_by_its_own_weights(run):
    config, ends = run.config(), read_ends(run, run.config(), "best")
    sets = RunSets(images(32, 0), images(40, 1), validation_near_ood={"noise": images(30, 2)})
    tried = list(measure_shares(ends, sets, [0.0, 0.5, 1.0], config))
    assert [row["alpha"] for row in tried] == [0.0, 0.5, 1.0]
    assert {"val/aurc", "val/ds_aurc_near"} <= tried[0].keys()
    for row in (tried[0], tried[2]):
        with torch.no_grad():
            logits = ends.at(row["alpha"])(torch.from_numpy(sets.validation.images).float() / 255)
        assert row["val/accuracy"] == (logits.argmax(1).numpy() == sets.validation.labels).mean()


def test_the_share_with_the_best_ds_aurc_is_chosen():
    rows = [
        {"alpha": 0.0, "val/aurc": 0.1, "val/ds_aurc_near": 0.3, "val/ds_aurc_far": 0.1},
        {"alpha": 0.5, "val/aurc": 0.3, "val/ds_aurc_near": 0.1, "val/ds_aurc_far": 0.1},
        {"alpha": 1.0, "val/aurc": 0.2, "val/ds_aurc_near": 0.1, "val/ds_aurc_far": 0.4},
    ]
    assert best_share(rows) == (0.5, "val/ds_aurc_near and val/ds_aurc_far")
    without = [{key: row[key] for key in ("alpha", "val/aurc")} for row in rows]
    assert best_share(without) == (0.0, "val/aurc")
    assert best_share([{**row, "val/aurc": 0.1} for row in without]) == (1.0, "val/aurc")


def test_images_to_choose_on_are_not_tested_on(run):
    config = run.config()
    sets = open_apart(run, config, tune=True)
    assert {"train", "validation"} < dict(sets.items()).keys()
    selections = selections_of(config, sets, batchnorm=True, tune=True)
    assert len(selections["train"]) == min(4096, sets.train.rows)
    changed = config.data.model_copy(update={"validation_near_ood": {"x": config.data.near_ood["digits89"]}})
    with pytest.raises(
        ConfigError, match=r"data.validation_near_ood.x: got images of data.near_ood.digits89"
    ):
        open_apart(run, config.model_copy(update={"data": changed}), tune=True)
    changed = config.data.model_copy(update={"validation": None, "validation_seed": 0})
    alone = config.model_copy(update={"data": changed})
    selections = selections_of(alone, open_apart(run, alone, tune=True), batchnorm=True, tune=True)
    held, trained = (set(selections[name].kept.tolist()) for name in ("validation", "train"))
    assert held
    assert not held & trained


def test_a_relative_path_of_weights_is_one_for_workers_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").touch()
    named = {name: load_config("digits_ce", [f"model.weights={name}"]) for name in ("w.pt", "s3://b/w.pt")}
    placed = {name: with_placed_weights(config).model.weights for name, config in named.items()}
    assert placed == {"w.pt": str(tmp_path / "w.pt"), "s3://b/w.pt": "s3://b/w.pt"}
    assert with_placed_weights(load_config("digits_ce")).model.weights is None


def test_what_cannot_be_interpolated_is_refused(run, tmp_path):
    config = (run.path / "config.yaml").read_text(encoding="utf-8")
    environment = run.read_json("environment.json")
    run.write_json("environment.json", {**environment, "weights": "of another file"})
    with pytest.raises(ConfigError, match="start.pt has changed since tuned was trained"):
        interpolate_run(run)
    run.write_json("environment.json", environment | {"weights": source_identity(str(tmp_path / "start.pt"))})
    (tmp_path / "half").mkdir()
    with pytest.raises(ConfigError, match="--name: .*half exists already"):
        interpolate_run(run, [0.5], name="half")
    random = config.replace(f"weights: {tmp_path / 'start.pt'}", "weights: null")
    (run.path / "config.yaml").write_text(random, encoding="utf-8")
    with pytest.raises(ConfigError, match="tuned began with random weights"):
        interpolate_run(run)
    with pytest.raises(SystemExit):
        main(["interpolate", str(run.path), "--alphas", "1.5"])


def test_the_run_is_one_that_everything_takes(run, tmp_path, ray_session, capsys):
    assert main(["interpolate", str(run.path), "--alphas", "0", "0.5", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made = RunFolder.open(found["path"])
    record = read_interpolation(made.path)
    assert found["criterion"] == "val/ds_aurc_near and val/ds_aurc_far"
    assert record.alpha == best_share(record.tried)[0]
    assert made.name == f"tuned-interpolated-{record.alpha:g}"
    assert said_of(made.path).startswith("interpolated: ")
    assert read_entry(made).params["interpolation"] == record.alpha
    ends: Ends = read_ends(run, run.config(), "best")
    wanted = ends.at(record.alpha).backbone.conv1.weight
    torch.testing.assert_close(load_model(made).backbone.conv1.weight, wanted)
    assert evaluation_config(made).data == made.config().data
    with pytest.raises(ConfigError, match="has interpolated weights"):
        resume_training(made, [])
    with pytest.raises(ConfigError, match="wanted a run that rtk has fine-tuned"):
        interpolate_run(made)
