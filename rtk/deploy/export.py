"""From an evaluated run to a packaged model, as a folder and as an MLflow model."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rtk import __version__
from rtk.config.errors import ConfigError
from rtk.config.plugin_files import owner_of
from rtk.config.schema import RunConfig
from rtk.data.sets.of_run import open_sets
from rtk.deploy.packaged_model import FIELDS, MLflowModel, PackagedModel, Preprocessing
from rtk.evaluate.model import load_model
from rtk.evaluate.run_decision import current_decision
from rtk.evaluate.sets import evaluation_config
from rtk.runs.data_record import DataRecord
from rtk.runs.ensemble import read_ensemble
from rtk.runs.folder import RunFolder
from rtk.scores.decision import DECISION_FILE, DECISION_SCORES, DECISIONS
from rtk.scores.selection import image_scores
from rtk.scores.storage import load_fitted
from rtk.tracking.mirror import Mirror

ARTIFACT = "model"


def export_run(run: RunFolder, checkpoint: str = "best", overrides: Sequence[str] = ()) -> Path:
    """Package a run's model with its scores and decision rule in `RUN/export`; returns that folder.

    No images are read, but of a run that does not know the names of its classes: one that an older rtk has
    trained and evaluated.

    Args:
        run: an evaluated run.
        checkpoint: `best` or `last`.
        overrides: as of `evaluation_config`: where the training images of such a run are now.

    Raises:
        ConfigError: as `package_run`.
    """
    packaged, folder = package_run(run, checkpoint, overrides), run.path / "export"
    shutil.rmtree(folder, ignore_errors=True)
    packaged.save(folder)
    return folder


def package_run(run: RunFolder, checkpoint: str = "best", overrides: Sequence[str] = ()) -> PackagedModel:
    """A run's model with its scores and decision rule; arguments as of `export_run`.

    Raises:
        ConfigError: where the run has no decision rule, or one of another checkpoint or evaluation; or an
            override that an evaluation does not take.
    """
    config = evaluation_config(run, overrides) if overrides else run.config()
    rule = current_decision(run, checkpoint)
    running = image_scores((rule.confidence, rule.ood_score))
    if running:
        raise ConfigError(f"export: the rule decides by {running[0]}, wanted scores of logits or features")
    ensemble = read_ensemble(run.path)
    data = config.data
    networks = [config.model] if ensemble is None else ensemble.config.members
    return PackagedModel(
        model=load_model(run, checkpoint),
        config=config.model.model_copy(update={"weights": None}),
        classes=list(_classes(run, config)),
        preprocessing=Preprocessing(
            data.image_size, data.crop_share, data.interpolation, data.exif, data.jpeg
        ),
        bf16=config.train.precision != "fp32",
        rule=rule,
        scores=load_fitted(run.evaluation / DECISION_SCORES),
        origin={"run": run.name, "checkpoint": checkpoint, "step": rule.step},
        plugins=_needed_plugins([one.name for one in networks], (rule.confidence, rule.ood_score)),
        ensemble=None if ensemble is None else ensemble.config,
        expected=_expected(run),
    )


def _expected(run: RunFolder) -> dict[str, int] | None:
    """How many test images got each decision in the evaluation that chose the rule."""
    outcome = (run.read_json(f"{run.evaluation.name}/{DECISION_FILE}") or {}).get("outcome", {}).get("test")
    if not outcome or not outcome["images"]:
        return None
    return {name: round(outcome[name] * outcome["images"]) for name in DECISIONS}


def _classes(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """Names in the order of the logits: those written down, or those of the training images."""
    record = DataRecord.read(run.path)
    return record.classes or open_sets(config, (), record).train.classes


def _needed_plugins(backbones: Iterable[str], scores: Iterable[str]) -> dict[str, str]:
    """SHA-256, by name, of the user's files without which a model cannot be loaded."""
    owners = [owner_of("backbone", name) for name in backbones]
    owners += [owner_of("score", name) for name in scores]
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

    ensemble = read_ensemble(run.path)
    networks = [run.config().model] if ensemble is None else ensemble.config.members
    needs_peft = any(network.lora.rank > 0 for network in networks)
    mirror = Mirror(run)
    mirror.send()  # makes the MLflow run where there is none yet
    mlflow.set_tracking_uri(mirror.uri)
    with mlflow.start_run(run_id=run.read_json("mlflow.json")["run_id"]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an example of the input is missing; there is a signature
        logged = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module=MLflowModel.__module__,
            data_path=str(folder),
            signature=signature(),
            pip_requirements=[f"reliability-toolkit{'[lora]' if needs_peft else ''}=={__version__}"],
            registered_model_name=registered_name,
        )
    mirror.send_status_again()  # `start_run` has ended the run in its own way
    return str(logged.model_uri)


def signature() -> Any:
    """MLflow's, of what goes into a packaged model and comes out."""
    from mlflow.models import infer_signature

    outputs = pd.DataFrame([dict.fromkeys(FIELDS, 0.5) | {"label": "a", "decision": "accept", "error": ""}])
    return infer_signature(pd.DataFrame({"image": [b"encoded"]}), outputs)
