"""A packaged model that knows nothing, and pictures for it."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rtk.config.model import ModelConfig
from rtk.deploy.packaged_model import PackagedModel, Preprocessing
from rtk.models import build_model
from rtk.scores import FitData, Predictions, apply_score, fit_score
from rtk.scores.decision import DecisionRule
from tests.deploy.random_package import CLASSES, SIDE, encoded


@pytest.fixture(scope="module")
def packaged() -> PackagedModel:
    """A random model whose thresholds split its own scores."""
    torch.manual_seed(0)
    config = ModelConfig(width=4)
    model = build_model(config, len(CLASSES), SIDE).eval()
    with torch.no_grad():
        logits, features = model.forward_features(torch.rand(40, 3, SIDE, SIDE))
    data = Predictions(logits, features, torch.arange(40) % len(CLASSES))
    fit = FitData(data, data, *model.head.used_weights())
    scores = {"msp": fit_score("msp"), "knn": fit_score("knn", fit, k=3)}
    known = {name: apply_score(name, state, data).median().item() for name, state in scores.items()}
    hyperparameters = {name: dict(state.hyperparameters) for name, state in scores.items()}
    rule = DecisionRule("msp", "knn", known["msp"], known["knn"], 0.1, "random", hyperparameters, 7)
    return PackagedModel(
        model, config, CLASSES, Preprocessing(SIDE), False, rule, scores, {"run": "random", "step": 7}
    )


@pytest.fixture
def folder(packaged, tmp_path, monkeypatch):
    packaged.save(tmp_path / "package")

    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    return tmp_path / "package"


@pytest.fixture
def images(tmp_path):
    """A folder with one PNG below another, and a Parquet file with two images."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    (tmp_path / "photos" / "a.png").write_bytes(encoded(0))
    (tmp_path / "photos" / "below" / "b.JPG").write_bytes(encoded(1))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    pq.write_table(pa.table({"image": [encoded(2), encoded(3)]}), tmp_path / "more.parquet")
    return [str(tmp_path / "photos"), str(tmp_path / "more.parquet")]
