"""A random model of three classes, and pictures of noise for it."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image

from rtk.config.model import ModelConfig
from rtk.deploy.packaged_model import PackagedModel, Preprocessing
from rtk.models import build_model
from rtk.scores import FitData, Predictions, apply_score, fit_score
from rtk.scores.decision import DecisionRule

CLASSES, SIDE = ["cat", "dog", "eel"], 16


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def encoded(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def random_package() -> PackagedModel:
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
