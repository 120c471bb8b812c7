"""From an evaluated run to a packaged model, as a folder and as an MLflow model."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from rtk import __version__
from rtk.config.errors import ConfigError
from rtk.config.plugin_files import owner_of
from rtk.data.sets.of_run import open_configured
from rtk.deploy.packaged_model import FIELDS, MLflowModel, PackagedModel, Preprocessing
from rtk.evaluate.model import load_model
from rtk.runs.folder import RunFolder
from rtk.scores.decision import DECISION_FILE, DECISION_SCORES, DecisionRule
from rtk.scores.selection import image_scores
from rtk.scores.storage import load_fitted
from rtk.tracking.mirror import Mirror
from rtk.train.checkpoint import read_state

ARTIFACT = "model"


def export_run(run: RunFolder, checkpoint: str = "best") -> Path:
    """Package a run's model with its scores and decision rule in `RUN/export`; returns that folder.

    Raises:
        ConfigError: as `package_run`.
    """
    packaged, folder = package_run(run, checkpoint), run.path / "export"
    shutil.rmtree(folder, ignore_errors=True)
    packaged.save(folder)
    return folder


def package_run(run: RunFolder, checkpoint: str = "best") -> PackagedModel:
    """A run's model with its scores and decision rule.

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
    running = image_scores((rule.confidence, rule.ood_score))
    if running:
        raise ConfigError(f"export: the rule decides by {running[0]}, wanted scores of logits or features")
    return PackagedModel(
        model=load_model(run, checkpoint),
        config=config.model.model_copy(update={"weights": None}),
        classes=list(open_configured(config.data.train, "data.train", need_classes=True).classes),
        preprocessing=Preprocessing(
            config.data.image_size, config.data.crop_share, config.data.interpolation, config.data.exif
        ),
        bf16=config.train.precision != "fp32",
        rule=rule,
        scores=load_fitted(run.evaluation / DECISION_SCORES),
        origin={"run": run.name, "checkpoint": checkpoint, "step": step},
        plugins=_needed_plugins(config.model.name, (rule.confidence, rule.ood_score)),
    )


def _needed_plugins(backbone: str, scores: Iterable[str]) -> dict[str, str]:
    """SHA-256, by name, of the user's files without which a model cannot be loaded."""
    owners = [owner_of("backbone", backbone), *(owner_of("score", score) for score in scores)]
    return {owner.path.name: owner.sha256 for owner in owners if owner is not None}


def log_to_mlflow(run: RunFolder, folder: Path, registered_name: str | None = None) -> str:
    """Log a packaged model to the run's MLflow run; returns its URI (`models:/...`).

    MLflow keeps the folder as it is and loads it by `rtk.deploy.packaged_model`: nothing is pickled.

    Args:
        run: where it comes from.
        folder: of `export_run`.
        registered_name: name in MLflow's model registry; None: it is logged, not registered.
    """
    import mlflow

    needs_peft = run.config().model.lora.rank > 0
    mirror = Mirror(run)
    mirror.send()  # makes the MLflow run where there is none yet
    mlflow.set_tracking_uri(mirror.uri)
    with mlflow.start_run(run_id=run.read_json("mlflow.json")["run_id"]):
        logged = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module=MLflowModel.__module__,
            data_path=str(folder),
            signature=_signature(),
            pip_requirements=[f"reliability-toolkit{'[lora]' if needs_peft else ''}=={__version__}"],
            registered_model_name=registered_name,
        )
    mirror.send_status_again()  # `start_run` has ended the run in its own way
    return str(logged.model_uri)


def _signature() -> Any:
    from mlflow.models import infer_signature

    outputs = pd.DataFrame([dict.fromkeys(FIELDS, 0.5) | {"label": "a", "decision": "accept", "error": ""}])
    return infer_signature(pd.DataFrame({"image": [b"encoded"]}), outputs)
