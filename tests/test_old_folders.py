"""Folders written before the rooms were rebuilt: a run, its packaged model, and a sweep.

They were made by rtk at commit 6a86556: SURE+ on the digits (width 1, 128 images, 2 epochs, one worker),
evaluated with `--risk` and exported; and a sweep of two trials. What was recorded then must come out now.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rtk.cli import main
from rtk.config.errors import ConfigError
from rtk.config.load import flatten
from rtk.config.yaml_files import read_mapping
from rtk.data.image import decode_rgb
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset, read_rows
from rtk.data.views.augment import to_float
from rtk.deploy.packaged_model import PackagedModel
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.model import load_model
from rtk.evaluate.predict import _stamp
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.evaluate.sets import evaluation_config, evaluation_selections
from rtk.packaged_model import _load_pyfunc
from rtk.report.comparison import compare
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.runs.results import read_result
from rtk.runs.sweep import SWEEP_FILE, Sweep
from rtk.train.launch import resume_training, resumed_config
from rtk.tune.sweep import moved_config

OLD = Path(__file__).parent / "old"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    shutil.copytree(OLD / "run", tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """The sweep, which was made in another folder."""
    shutil.copytree(OLD / "sweep", tmp_path / "sweep")
    return Sweep.open(tmp_path / "sweep")


def images_and_labels() -> tuple[list[bytes], np.ndarray]:
    """Encoded images of the digits' test set and their labels."""
    rows = list(read_rows(open_dataset(resolve_path("builtin:digits/test.parquet"))))
    return [row.image for row in rows], np.array([row.label for row in rows])


def test_every_key_of_an_old_config_is_as_it_was(run):
    old = dict(flatten(read_mapping(run.path / "config.yaml")))
    new = dict(flatten(run.config().model_dump(mode="json")))
    assert {key: new[key] for key in old} == old


def test_an_old_run_goes_on_with_images_as_they_are_stored(run, sweep):
    """Its model has never seen any other; a config of today's says `data.exif` itself."""
    assert run.config().data.exif == sweep.config().data.exif == "ignore"
    resumed = resumed_config(run, ["train.duration=3ep"])
    assert resumed.model.batchnorm == sweep.config().model.batchnorm == "local"
    assert (resumed.data.exif, resumed.train.duration) == ("ignore", "3ep")
    assert resumed_config(run, []) == run.config()
    with pytest.raises(ConfigError, match="data.exif: 'ignore' -> 'apply'; only"):
        resumed_config(run, ["data.exif=apply"])
    assert evaluation_config(run).data.exif == "ignore"
    assert PackagedModel.load(run.path / "export").preprocessing.exif == "ignore"
    run.change_config(resumed, 8)
    assert run.config() == resumed


def test_predictions_of_an_old_run_count_as_made_from_what_it_evaluates_now(run):
    for name, selection in evaluation_selections(evaluation_config(run)).items():
        stored = read_stamp(run.evaluation / "predictions" / f"{name}.parquet")["predictions"]
        assert _stamp(selection).items() <= stored.items()


def test_checkpoint_gives_the_recorded_logits(run):
    images, labels = images_and_labels()
    pixels = np.stack([decode_rgb(image, 32).transpose(2, 0, 1) for image in images])
    with torch.no_grad():
        logits = load_model(run)(to_float(torch.from_numpy(pixels)))
    recorded = read_predictions(run.evaluation / "predictions" / "test.parquet")
    assert np.array_equal(recorded["label"], labels)
    assert np.abs(logits.numpy() - recorded["logits"]).max() <= 1e-4


def test_packaged_model_predicts_what_was_recorded():
    recorded = json.loads((OLD / "predictions.json").read_text())
    images, _ = images_and_labels()
    for packaged in (PackagedModel.load(OLD / "run" / "export"), _load_pyfunc(str(OLD / "run" / "export"))):
        model = getattr(packaged, "packaged", packaged)
        for row, wanted in zip(model.predict(images[: len(recorded)]), recorded, strict=True):
            assert {key: row[key] for key in ("label", "decision", "error")} == {
                key: wanted[key] for key in ("label", "decision", "error")
            }
            for key in ("probability", "confidence", "ood_score"):
                assert row[key] == pytest.approx(wanted[key], abs=1e-4)


def test_a_sweep_that_has_moved_writes_its_trials_where_it_is_now(sweep):
    assert sweep._tree()["config"]["output"] == "/runs/old_sweep"
    assert sweep.config().output == str(sweep.path)


def test_a_sweep_takes_other_places_of_its_images_and_no_other_change(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(resolve_path("builtin:digits/train.parquet"), "train.parquet")
    config = moved_config(sweep, ["data.train=train.parquet", "data.test=null"])
    assert (config.data.train, config.data.test) == (str(tmp_path / "train.parquet"), None)
    for override in ("optimizer.lr=1", "data.image_size=8", "train.duration=9ep", "data.train=null"):
        with pytest.raises(ConfigError, match=f"--resume: got {override.partition('=')[0]}, wanted --trials"):
            moved_config(sweep, [override])


def test_trials_of_an_old_sweep_are_compared(sweep):
    found = compare(sweep=str(sweep.path))
    recorded = json.loads((OLD / "trials.json").read_text())
    assert {group.label: group.entries[0].metrics["val/ds_aurc_near"] for group in found.groups} == recorded


def test_a_run_whose_driver_was_lost_after_its_last_step_is_finished(run):
    run.write_json("status.json", {"status": "RUNNING", "keep_checkpoints": False, "tags": {}})
    before = run.read_metrics()
    with pytest.raises(ConfigError, match="train.duration: got '2ep', the run is at step 8 already"):
        resume_training(run, ["train.checkpoint_every=10min"])
    outcome = resume_training(run, [])
    assert (outcome.status, status_of(run)) == ("finished", "finished")
    last = {row["key"]: row["value"] for row in before if row["step"] == 8 and row["key"].startswith("val/")}
    assert outcome.metrics == last
    assert len(last) > 3
    assert run.read_metrics() == before
    with pytest.raises(ConfigError, match="the run is at step 8 already"):
        resume_training(run, [])


@pytest.mark.slow
def test_old_run_is_evaluated_to_the_same_figures_and_resumes(run, ray_session):
    before = read_result(run)
    files = sorted((run.evaluation / "predictions").iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    after = evaluate_run(run)
    assert [file.stat().st_mtime_ns for file in files] == written  # nothing is predicted anew
    # Features of the old run lie close together: kNN tells them apart in more digits now.
    assert pytest.approx(after["test"].pop("knn"), rel=1e-6) == before["test"].pop("knn")
    assert after["test"] == before["test"]
    for name, scores in before["sets"].items():
        assert pytest.approx(after["sets"][name].pop("knn"), rel=5e-5) == scores.pop("knn")
    assert after["sets"] == before["sets"]
    resumed = resume_training(run, ["train.duration=3ep"])
    assert resumed.status == "finished"
    assert [row["step"] for row in run.read_metrics() if row["key"] == "val/accuracy"] == [4, 8, 12]


@pytest.mark.slow
def test_old_sweep_goes_on(sweep, ray_session):
    assert main(["sweep", "--resume", str(sweep.path), "--trials", "3"]) == 0
    assert has_checkpoint(sweep.path / "trial-0002" / "checkpoints" / "last")
    assert (sweep.path / SWEEP_FILE).is_file()
    assert not Path("/runs/old_sweep").exists()
    assert len(compare(sweep=str(sweep.path)).groups) == 3
