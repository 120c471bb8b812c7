"""From an evaluated run to a packaged model, as a folder and as an MLflow model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from rtk import __version__
from rtk.config.load import ConfigError
from rtk.data.catalog import resolve_path
from rtk.data.dataset import open_dataset
from rtk.evaluate.decision import DecisionRule
from rtk.evaluate.evaluate import DECISION_FILE
from rtk.evaluate.predict import load_model, predict_datasets, read_predictions
from rtk.evaluate.score_table import fit_data
from rtk.evaluate.sets import evaluation_sources
from rtk.mirror import Mirror
from rtk.packaged_model import FIELDS, MLflowModel, PackagedModel
from rtk.run_folder import RunFolder
from rtk.scores import FittedScore, fit_score
from rtk.train.checkpoint import read_state

ARTIFACT = "model"


def export_run(run: RunFolder, checkpoint: str = "best") -> Path:
    """Package a run's model with its scores and decision rule in `RUN/export`; returns that folder.

    Raises:
        ConfigError: where the run has no decision rule, or one for another checkpoint.
    """
    config = run.config()
    step = read_state(run.checkpoints / checkpoint)["step"]
    rule = DecisionRule.load(run.evaluation / DECISION_FILE)
    if rule.step != step:
        raise ConfigError(
            f"{run.evaluation / DECISION_FILE}: thresholds of step {rule.step}, but {checkpoint} is of step "
            f"{step}: run `rtk evaluate {run.path} --risk {rule.risk}` again"
        )
    packaged = PackagedModel(
        model=load_model(run, checkpoint),
        config=config.model.model_copy(update={"weights": None}),
        classes=list(open_dataset(resolve_path(config.data.train)).classes),
        image_size=config.data.image_size,
        bf16=config.train.precision != "fp32",
        rule=rule,
        scores=_fitted_scores(run, rule, checkpoint),
        origin={"run": run.name, "checkpoint": checkpoint, "step": step},
    )
    folder = run.path / "export"
    shutil.rmtree(folder, ignore_errors=True)
    packaged.save(folder)
    return folder


def _fitted_scores(run: RunFolder, rule: DecisionRule, checkpoint: str) -> dict[str, FittedScore]:
    """The rule's scores fitted as in the evaluation, from the predictions that it kept."""
    config = run.config()
    sources = evaluation_sources(config)
    wanted = {name: source for name, source in sources.items() if name in ("train", "validation")}
    paths = predict_datasets(run, wanted, checkpoint)
    predictions = {name: read_predictions(path) for name, path in paths.items()}
    data = fit_data(config, predictions, load_model(run, checkpoint))
    return {name: fit_score(name, data, **values) for name, values in rule.hyperparameters.items()}


def log_to_mlflow(run: RunFolder, folder: Path, registered_name: str | None = None) -> str:
    """Log a packaged model to the run's MLflow run; returns its URI (`models:/...`).

    MLflow keeps the folder as it is and loads it by `rtk.packaged_model`: nothing is pickled.

    Args:
        run: where it comes from.
        folder: of `export_run`.
        registered_name: name in MLflow's model registry; None: it is logged, not registered.
    """
    import mlflow

    mirror = Mirror(run)
    mirror.send()  # makes the MLflow run where there is none yet
    mlflow.set_tracking_uri(mirror.uri)
    with mlflow.start_run(run_id=run.read_json("mlflow.json")["run_id"]):
        logged = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module=MLflowModel.__module__,
            data_path=str(folder),
            signature=_signature(),
            pip_requirements=[f"reliability-toolkit=={__version__}"],
            registered_model_name=registered_name,
        )
    return str(logged.model_uri)


def _signature() -> Any:
    from mlflow.models import infer_signature

    outputs = pd.DataFrame([dict.fromkeys(FIELDS, 0.5) | {"label": "a", "decision": "accept", "error": ""}])
    return infer_signature(pd.DataFrame({"image": [b"encoded"]}), outputs)
