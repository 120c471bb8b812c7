"""Prediction by a pool of actors: every column once, the same from any pool, whatever dies."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from rtk.config import load_config
from rtk.config.schema import EvaluateConfig
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.order import holdout_split
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.model import load_model
from rtk.evaluate.pool import Pool
from rtk.evaluate.predict import predict_datasets
from rtk.evaluate.predictions_file import read_predictions
from rtk.evaluate.sets import evaluation_config
from rtk.evaluate.throughput import OUTPUTS, read_throughput
from rtk.runs.folder import RunFolder
from rtk.scores import SCORES, compute_image_score, fit_image_score
from rtk.train.launch import launch_training
from tests.ray_processes import process_of
from tests.train.ranks import workers_forked

pytestmark = pytest.mark.slow

WARM = 'rr_fast{"temperature": 2}'
IMAGE_SCORES = ("odin", "rr_fast", "rr_bs", "gram", WARM)
SMALL = [
    "model.width=4",
    "data.train_rows=192",
    "train.duration=1ep",
    "evaluate.batch_size=8",
    "data.validation=null",
]


@pytest.fixture(scope="module")
def run(ray_session, tmp_path_factory) -> RunFolder:
    output = tmp_path_factory.mktemp("runs")
    with workers_forked():
        return launch_training(load_config("digits_ce", [f"output={output}", *SMALL])).run


@pytest.fixture(scope="module")
def selections() -> dict[str, Selection]:
    sets = {"train": ("train", 192), "test": ("test", 24), "photos": ("far_photos", 12)}
    return {
        name: Selection(
            open_dataset(resolve_path(f"builtin:digits/{file}.parquet"), need_classes=False), 32, rows
        )
        for name, (file, rows) in sets.items()
    }


def fresh(run, tmp_path, count) -> RunFolder:
    """The same run without its evaluation."""
    folder = tmp_path / str(count)
    folder.mkdir()
    for name in ("config.yaml", "checkpoints"):
        (folder / name).symlink_to(run.path / name)
    return RunFolder(folder)


def pool_of(actors: int | None) -> EvaluateConfig:
    return EvaluateConfig(actors=actors, batch_size=8)


def predicted(run, selections, actors=1, **options):
    with Pool(run, "best", pool_of(actors)) as pool:
        return predict_datasets(pool, selections, **options)


def columns(paths):
    return {name: read_predictions(path) for name, path in paths.items()}


def assert_identical(first, second):
    assert first.keys() == second.keys()
    for name, table in first.items():
        assert table.keys() == second[name].keys()
        for column, values in table.items():
            np.testing.assert_array_equal(values, second[name][column], err_msg=f"{name}.{column}")


@pytest.fixture(scope="module")
def alone(run, selections, tmp_path_factory):
    """Everything from one actor."""
    folder = fresh(run, tmp_path_factory.mktemp("alone"), 1)
    return folder, predicted(folder, selections, scores=IMAGE_SCORES)


def images_of(selection):
    return torch.from_numpy(decode_datasets({"x": selection})["x"].images).float() / 255


def test_columns_are_those_of_the_model_in_the_order_of_the_data(run, selections, alone):
    saved = columns(alone[1])
    assert saved["train"].keys() == {"sample_id", "label", "prediction", "logits", "features"}
    assert saved["test"].keys() == saved["train"].keys() | set(IMAGE_SCORES)
    model, images = load_model(run), images_of(selections["test"])
    with torch.no_grad():
        logits, features = model.forward_features(images)
    # Predictions are bf16 where the machine has it, scores of images never are.
    np.testing.assert_allclose(saved["test"]["logits"], logits, atol=0.1)
    np.testing.assert_allclose(saved["test"]["features"], features, atol=0.1)
    for name in ("odin", "rr_fast", "rr_bs"):
        expected = compute_image_score(name, model, images)
        np.testing.assert_allclose(saved["test"][name], expected, rtol=1e-2, atol=1e-5)
    warm = compute_image_score("rr_fast", model, images, temperature=2)
    np.testing.assert_allclose(saved["test"][WARM], warm, rtol=1e-2, atol=1e-5)


def test_gram_is_fitted_on_the_split_of_the_run(run, selections, alone):
    config, model = run.config(), load_model(run)
    kept, held = holdout_split(config.seed, len(selections["train"]), config.data.validation_fraction)
    images, targets = images_of(selections["train"]), torch.from_numpy(columns(alone[1])["train"]["label"])
    tensors = fit_image_score("gram", model, *([(images[rows], targets[rows])] for rows in (kept, held)))
    expected = compute_image_score("gram", model, images_of(selections["test"]), tensors)
    np.testing.assert_allclose(columns(alone[1])["test"]["gram"], expected, rtol=2e-2)


class KilledOnce:
    """Kills one of the actors, with SIGKILL, as soon as a block of results has come."""

    def __init__(self):
        self.killed = 0

    def __call__(self, done, total):
        if self.killed or done == total:
            return
        self.killed = process_of("ModelActor")
        os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize(("count", "kills"), [(1, True), (2, True), (3, False)])
def test_any_number_of_actors_gives_the_same_also_where_one_is_killed(
    run, selections, alone, tmp_path, count, kills
):
    folder, killer = fresh(run, tmp_path, count), KilledOnce()
    found = predicted(folder, selections, count, scores=IMAGE_SCORES, progress=killer if kills else None)
    assert bool(killer.killed) == kills
    assert_identical(columns(found), columns(alone[1]))


def test_what_is_little_is_done_without_actors_and_is_the_same(run, selections, alone, tmp_path, monkeypatch):
    folder = fresh(run, tmp_path, 0)
    with Pool(folder, "best", pool_of(None)) as pool:
        found = predict_datasets(pool, selections, scores=IMAGE_SCORES)
        assert not pool.actors
        assert_identical(columns(found), columns(alone[1]))
        monkeypatch.setattr("rtk.data.decode.pipeline.LITTLE", 0)
        predict_datasets(pool, selections, scores=("doctor_perturbed", *IMAGE_SCORES))  # a score more
        assert len(pool.actors) == 1


def test_only_what_is_missing_is_computed(run, selections, tmp_path, monkeypatch):
    folder = fresh(run, tmp_path, 1)
    passes = []
    run_blocks = Pool.run_blocks

    def spied(pool, part, work):
        passes.append((sorted(part), type(work).__name__, work.outputs, work.scores))
        return run_blocks(pool, part, work)

    monkeypatch.setattr(Pool, "run_blocks", spied)
    predicted(folder, selections)
    assert passes == [(["photos", "test", "train"], "Predict", True, ())]
    before = columns({name: folder.evaluation / "predictions" / f"{name}.parquet" for name in selections})
    passes.clear()
    predicted(folder, selections, scores=("rr_fast",))
    assert passes == [(["photos", "test"], "Predict", False, ("rr_fast",))]
    passes.clear()
    found = columns(predicted(folder, selections, scores=("odin", "rr_fast")))
    assert passes == [(["photos", "test"], "Predict", False, ("odin",))]
    for name, table in before.items():
        assert_identical({name: table}, {name: {column: found[name][column] for column in table}})
    passes.clear()
    predicted(folder, selections, scores=("odin", "rr_fast"))
    assert passes == []


def test_evaluation_takes_every_score(run, tmp_path):
    again = fresh(run, tmp_path, 1)
    given = ["evaluate.scores.adascale_a.k1=20", "evaluate.scores.weiper.repeats=3"]
    settings = ["evaluate.scores=[all]", "evaluate.batch_size=32", *given]
    result = evaluate_run(again, evaluation_config(again, settings), rows=32)
    of_one_network = {name for name, score in SCORES.items() if not score.of_ensembles}
    assert set(result["scores"]) == of_one_network
    used = result["protocol"]["hyperparameters"]
    assert (used["adascale_a"]["k1"], used["adascale_l"]["k1"], used["weiper"]["repeats"]) == (20, 5.0, 3)
    values = [metric for score in result["scores"].values() for metric in score.values()]
    assert np.isfinite(values).all()
    throughput = read_throughput(again.evaluation)
    assert throughput.keys() == {OUTPUTS, *of_one_network}
    assert min(throughput.values()) > 0
