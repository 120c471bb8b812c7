"""Runs joined to one: what is refused, what is written, and predictions from those of the members."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import rtk
from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.data.decode.pipeline import decode_datasets
from rtk.deploy.description import build_described, read_description
from rtk.deploy.packaged_model import PackagedModel, Preprocessing
from rtk.evaluate.ensemble import (
    Chosen,
    check_ensemble,
    check_same_sets,
    chosen_members,
    open_ensemble,
)
from rtk.evaluate.joined_predictions import join_predictions
from rtk.evaluate.model import load_model
from rtk.evaluate.predict import prediction_files
from rtk.evaluate.predictions_file import read_predictions
from rtk.evaluate.sets import binding_record, evaluation_config, evaluation_selections
from rtk.runs.checkpoints import forget, point_to, prune, resolve_checkpoint
from rtk.runs.ensemble import read_ensemble
from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.runs.results import read_entry
from rtk.scores import fit_score
from rtk.scores.decision import DecisionRule
from rtk.scores.table import DISAGREEMENT_SCORES
from rtk.train.imported import import_weights
from rtk.train.initial import open_source
from rtk.train.launch import resume_training
from rtk.train.saving import save_weights
from tests.evaluate.conftest import copy_of
from tests.models.published_networks import CifarResNet, settle

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def member(output, name, seed, *overrides, width=2, classes=None) -> RunFolder:
    """A run of a network that nobody has trained."""
    weights = output / f"{name}.pt"
    torch.save(settle(CifarResNet(width, 8), seed).state_dict(), weights)
    if classes is not None:
        (output / "classes.json").write_text(json.dumps(classes))
    options = [f"model.width={width}", f"output={output}", "train.precision=fp32", *overrides]
    config = load_config("digits_ce", options)
    return import_weights(weights, config, name, output / "classes.json" if classes else None).run


@pytest.fixture
def runs(tmp_path):
    return [member(tmp_path, "a", 0), member(tmp_path, "b", 1, width=3)]


def of(*runs) -> list[Chosen]:
    return [Chosen(run, "best") for run in runs]


def test_its_run_holds_all_weights_and_says_where_they_come_from(runs, tmp_path):
    members = [load_model(run) for run in runs]
    with torch.no_grad():
        wanted = torch.stack([one(IMAGES) for one in members]).double().softmax(2).mean(0)
        made = open_ensemble(of(*runs))
        for run in runs:
            shutil.rmtree(run.path)
        found = load_model(made)(IMAGES)
    torch.testing.assert_close(found.double().softmax(1), wanted, rtol=0, atol=1e-6)
    record = read_ensemble(made.path)
    assert [one.run for one in record.members] == ["a", "b"]
    assert record.shared_holdout
    assert made.name.startswith("digits_ce-ensemble-")
    assert status_of(made) == "finished"
    assert set(DISAGREEMENT_SCORES) < set(made.config().evaluate.scores)
    entry = read_entry(made)
    assert entry.params["ensemble"] == "2 by softmax"
    with pytest.raises(ConfigError, match="is an ensemble, wanted one of its members"):
        resume_training(made, [])
    with pytest.raises(ConfigError, match="is an ensemble, wanted one network"):
        open_source(str(made.path))
    with pytest.raises(ConfigError, match="is an ensemble itself, wanted single networks"):
        open_ensemble(of(made, made))


def test_the_same_members_give_the_same_run(runs):
    made = open_ensemble(of(*runs))
    before = (made.checkpoints / "best.json").stat().st_mtime_ns
    assert open_ensemble(of(*runs)) == made
    assert (made.checkpoints / "best.json").stat().st_mtime_ns == before
    assert open_ensemble(of(*runs), "logits") != made
    assert rtk.ensemble([run.path for run in runs]).path == made.path
    with pytest.raises(ConfigError, match="wanted two networks or more"):
        rtk.ensemble([runs[0].path])
    named = open_ensemble(of(*runs), name="both")
    assert named.name == "both"
    with pytest.raises(ConfigError, match="--name: .*both exists already; wanted another --name"):
        open_ensemble(of(*reversed(runs)), name="both")
    (made.checkpoints / "best.json").unlink()  # as if it had been ended while it wrote
    assert load_model(open_ensemble(of(*runs)))(IMAGES).isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "classes", "message"),
    [
        (["data.image_size=16"], None, r"b \(best\) has data.image_size 16, but a \(best\) has 32"),
        (["train.precision=bf16"], None, "has train.precision 'bf16'"),
        (["data.train=/nowhere"], [*"01234576"], "has as class 6 '7', but .* has '6'"),
    ],
)
def test_other_members_are_refused(tmp_path, overrides, classes, message):
    other = member(tmp_path, "b", 1, *overrides, classes=classes)
    with pytest.raises(ConfigError, match=message):
        open_ensemble(of(member(tmp_path, "a", 0), other))
    assert not list(tmp_path.glob("*ensemble*"))


def test_one_network_is_no_ensemble(runs, capsys):
    with pytest.raises(ConfigError, match=r"got a \(best\), wanted two networks or more"):
        chosen_members(runs[:1], "best", snapshots=False)
    with pytest.raises(ConfigError, match="got the same checkpoint twice"):
        open_ensemble(of(runs[0], runs[0]))
    assert main(["evaluate", str(runs[0].path), str(runs[1].path)]) == 2
    assert "wanted --ensemble with it" in capsys.readouterr().err
    assert main(["evaluate", str(runs[0].path), "--average", "logits"]) == 2
    assert "--average: got no --ensemble" in capsys.readouterr().err
    assert main(["evaluate", str(runs[0].path), "--scores", "pairwise_kl"]) == 2
    assert "evaluate.scores: got 'pairwise_kl' of one network" in capsys.readouterr().err


def test_snapshots_are_the_checkpoints_that_a_run_has_kept(runs):
    run, first = runs[0], runs[0].checkpoints
    kept = resolve_checkpoint(first / "best")
    changed = load_model(run)
    with torch.no_grad():
        for value in changed.parameters():
            value.add_(0.01)
    save_weights(first / "last", changed, {"step": 7, "num_classes": 8, "metrics": None})
    point_to(first / "best", kept)
    chosen = chosen_members([run], "best", snapshots=True)
    assert [one.checkpoint for one in chosen] == ["00001-step-0", "00002-step-7"]
    made = open_ensemble(chosen, "logits")
    assert made.name.startswith("a-ensemble-")
    with torch.no_grad():
        wanted = (load_model(run)(IMAGES) + changed(IMAGES)) / 2
        torch.testing.assert_close(load_model(made)(IMAGES), wanted, rtol=0, atol=1e-5)


def test_members_tested_on_other_images_are_refused(runs):
    configs = [evaluation_config(run) for run in runs]
    check_same_sets(of(*runs), configs)
    near = configs[1].data.far_ood["photos"]
    other = evaluation_config(runs[1], [f"data.near_ood.digits89={near}"])
    with pytest.raises(ConfigError, match=r"data.near_ood.digits89 is .*photos.* in b \(best\), but"):
        check_same_sets(of(*runs), [configs[0], other])


def test_thresholds_need_images_that_no_member_was_trained_on(tmp_path, capsys):
    config = "data.validation=null"
    runs = [member(tmp_path, "a", 0, config), member(tmp_path, "b", 1, config, "seed=1")]
    made = open_ensemble(of(*runs))
    assert not read_ensemble(made.path).shared_holdout
    check_ensemble(made, evaluation_config(made))
    assert "members of the ensemble have held out different images" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="thresholds would be chosen on images that some were trained on"):
        check_ensemble(made, evaluation_config(made, ["evaluate.risk=0.1"]))
    given = evaluation_config(
        made, ["evaluate.risk=0.1", "data.validation=builtin:digits/validation.parquet"]
    )
    check_ensemble(made, given)
    shared = member(tmp_path, "c", 2, config, "seed=1", "data.validation_seed=0")
    assert read_ensemble(open_ensemble(of(runs[0], shared)).path).shared_holdout


def test_predictions_of_the_members_are_used_again(runs):
    made = open_ensemble(of(*runs))
    config = evaluation_config(made)
    selections = evaluation_selections(config, 40, binding_record(made, config))
    selections = {name: selections[name] for name in ("test", "photos")}
    assert join_predictions(made, selections, "best") == []
    draw = np.random.default_rng(0)
    for run, width in zip(runs, (16, 24), strict=True):
        (run.evaluation / "predictions").mkdir()
        file = prediction_files(run, selections)["test"]
        rows = len(selections["test"])
        columns = {"logits": (rows, 8), "features": (rows, width)}
        file.write(
            selections["test"], {k: draw.normal(size=s).astype(np.float32) for k, s in columns.items()}, {}
        )
    assert join_predictions(made, selections, "best") == ["test"]
    found = read_predictions(made.evaluation / "predictions" / "test.parquet")
    each = [read_predictions(run.evaluation / "predictions" / "test.parquet") for run in runs]
    shares = np.mean([torch.from_numpy(one["logits"]).double().softmax(1).numpy() for one in each], axis=0)
    np.testing.assert_allclose(
        torch.from_numpy(found["logits"]).double().softmax(1).numpy(), shares, atol=1e-6
    )
    np.testing.assert_array_equal(found["features"], np.concatenate([one["features"] for one in each], 1))
    np.testing.assert_array_equal(found["prediction"], shares.argmax(1))
    assert not prediction_files(made, selections)["test"].lacking({})[0]
    assert join_predictions(made, selections, "best") == []  # they are there
    (made.evaluation / "predictions" / "test.parquet").unlink()
    save_weights(runs[1].checkpoints / "best", load_model(runs[0]), {"step": 9, "num_classes": 8})
    assert join_predictions(made, selections, "best") == []  # of another checkpoint than was joined


def test_a_packaged_ensemble_predicts_as_one_model(runs, tmp_path):
    made = open_ensemble(of(*runs))
    model, record = load_model(made), read_ensemble(made.path)
    with torch.no_grad():
        logits = model(IMAGES)
    rule = DecisionRule("msp", "energy", 0.5, -1.0, 0.1, "made up", {}, 0)
    scores = {name: fit_score(name) for name in ("msp", "energy")}
    packaged = PackagedModel(
        model, made.config().model, [*"01234567"], Preprocessing(32), False, rule, scores,
        {"run": made.name, "step": 0}, ensemble=record.config,
    )  # fmt: skip
    packaged.save(tmp_path / "package")
    described = read_description(tmp_path / "package")
    assert len(described.ensemble.members) == 2
    built = build_described(tmp_path / "package", described).eval()
    with torch.no_grad():
        torch.testing.assert_close(built(IMAGES), logits)
    assert PackagedModel.load(tmp_path / "package").ensemble == record.config


@pytest.mark.slow
def test_an_ensemble_is_measured_exported_and_ranked_as_one_run(run, tmp_path, capsys):
    copy = copy_of(run, tmp_path)
    best, other = load_model(copy), load_model(copy)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    forget(copy.checkpoints / "last")  # which may be a third
    save_weights(copy.checkpoints / "second", other, {"step": 99, "num_classes": 8, "metrics": None})
    prune(copy.checkpoints, kept=0)
    command = ["evaluate", str(copy.path), "--ensemble", "--snapshots", "--scores", "msp", "--risk", "0.5"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    made = RunFolder.open(tmp_path / result["run"])
    assert {"msp", "knn", "mutual_information", "pairwise_kl", "vote_share"} == result["scores"].keys()
    saved = read_predictions(made.evaluation / "predictions" / "test.parquet")
    arrays = decode_datasets({"test": evaluation_selections(made.config())["test"]})["test"]
    images = torch.from_numpy(arrays.images).float() / 255
    with torch.no_grad():
        shares = torch.stack([model(images) for model in (best, other)]).double().softmax(2).mean(0)
    found = torch.from_numpy(saved["logits"]).double().softmax(1)
    torch.testing.assert_close(found, shares, rtol=0, atol=1e-4)
    assert main(["export", str(made.path), "--no-mlflow"]) == 0
    packaged = PackagedModel.load(made.path / "export")
    with torch.no_grad():
        torch.testing.assert_close(packaged.model(images).double().softmax(1), shares, rtol=0, atol=1e-4)
    before = (made.evaluation / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["leaderboard", str(made.path), "--scores", "msp", "vote_share", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["score"] for row in rows} == {"msp", "vote_share"}
    assert (made.evaluation / "metrics.json").stat().st_mtime_ns == before  # nothing was measured again
