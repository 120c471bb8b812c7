"""Weights between the pretrained start of a fine-tuned run and its end: WiSE-FT, with a chosen coefficient.

theta(a) = (1 - a) theta_start + a theta_tuned (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022, arXiv 2109.01903). BatchNorm's statistics are no weights: they are re-estimated on training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtk.config.errors import ConfigError
from rtk.config.metric_names import larger_is_better
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.of_run import RunSets
from rtk.models import Classifier, build_model
from rtk.models.batchnorm import batchnorm_layers
from rtk.models.weights import load_weights
from rtk.optim.averaging import reestimate_batchnorm
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.data_record import ENVIRONMENT
from rtk.runs.ensemble import checkpoint_identity
from rtk.runs.folder import RunFolder
from rtk.runs.interpolation import Interpolation
from rtk.runs.names import free_folder
from rtk.runs.origin import said_of
from rtk.runs.stored_checkpoints import whole_or_gone
from rtk.runs.working_copy import place_of
from rtk.runtime.console import progress_bar
from rtk.runtime.environment import supports_bf16
from rtk.tracking.status import note_status
from rtk.train.checkpoint import class_count, read_state
from rtk.train.initial import open_source, source_identity
from rtk.train.interpolation_data import decode_sets
from rtk.train.saving import save_weights
from rtk.train.shard_reader import load_saved_weights
from rtk.train.validate import validation_batches, validation_metrics

ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
State = dict[str, Tensor]


@dataclass(frozen=True)
class Ends:
    """Both ends of a line of weights.

    Attributes:
        model: that has the weights in turn.
        start: its state at the start of the fine-tuning; without the head's where this is new.
        tuned: its state at the end.
    """

    model: Classifier
    start: State
    tuned: State

    def at(self, alpha: float) -> Classifier:
        """The model with the weights of a share of the fine-tuned ones; BatchNorm is as at the end."""
        self.model.load_state_dict(interpolated(self.start, self.tuned, alpha))
        return self.model


def interpolated(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> State:
    """(1 - alpha) start + alpha tuned; what the start lacks, and whole numbers, are those of `tuned`."""
    return {
        name: torch.lerp(start[name], value, alpha) if name in start and value.is_floating_point() else value
        for name, value in tuned.items()
    }


def interpolate_run(
    run: RunFolder, alphas: Sequence[float] = ALPHAS, checkpoint: str = "best", name: str | None = None
) -> tuple[RunFolder, Interpolation]:
    """Make a run of the best weights between a fine-tuned run and the weights that it began with.

    Args:
        run: trained with `model.weights`.
        alphas: shares of the fine-tuned weights to try, in [0, 1]; a single one is taken untried.
        checkpoint: `best` or `last`.
        name: of the new run, made beside it; None: `{run}-interpolated-{share}`.

    Returns:
        The run, and what it was made of.

    Raises:
        ConfigError: the run has not been fine-tuned, its start has changed, there is such a run already, or
            images to choose on are images to test on.
        CheckpointError: the checkpoint is missing or damaged.
    """
    config, parent = run.config(), place_of(run.path.parent)
    if name is not None:
        free_folder(name, parent, way_out="wanted another")
    identity = _check_start(run, config)
    ends = read_ends(run, config, checkpoint)
    sets = decode_sets(run, config, bool(batchnorm_layers(ends.model)), tune=len(alphas) > 1)
    tried, chosen, criterion = [{"alpha": float(alphas[0])}], float(alphas[0]), None
    if len(alphas) > 1:
        tried = list(measure_shares(ends, sets, alphas, config))
        chosen, criterion = best_share(tried)
    folder = resolve_checkpoint(run.checkpoints / checkpoint)
    record = Interpolation(
        start=str(config.model.weights),
        start_sha256=identity,
        run=run.name,
        place=run.place,
        checkpoint=checkpoint,
        sha256=checkpoint_identity(folder),
        step=int(read_state(folder)["step"]),
        alpha=chosen,
        with_head=config.model.head_weights == "load",
        criterion=criterion,
        tried=tried,
        batchnorm_images=len(sets.train) if 0 < chosen < 1 else 0,
    )
    settle_batchnorm(ends.at(chosen), sets.train, config, chosen)
    return _write(run, config, name or f"{run.name}-interpolated-{chosen:g}", ends.model, record), record


def _check_start(run: RunFolder, config: RunConfig) -> str:
    """The identity of the weights that a run began with.

    Raises:
        ConfigError: see `interpolate_run`.
    """
    if said := said_of(run.path):
        raise ConfigError(f"run: {run.name} is {said}; wanted a run that rtk has fine-tuned")
    if config.model.weights is None:
        raise ConfigError(
            f"model.weights: {run.name} began with random weights, wanted a run fine-tuned from others"
        )
    if config.model.lora.rank:
        raise ConfigError(
            f"model.lora.rank: got {config.model.lora.rank}, wanted 0: adapters are products of weights, "
            "which lie on no line between two models"
        )
    found, recorded = source_identity(config.model.weights), (run.read_json(ENVIRONMENT) or {}).get("weights")
    if recorded is not None and recorded != found:
        raise ConfigError(
            f"model.weights: {config.model.weights} has changed since {run.name} was trained: SHA-256 "
            f"{found}, recorded is {recorded}"
        )
    return found


def read_ends(run: RunFolder, config: RunConfig, checkpoint: str) -> Ends:
    """Both ends of a fine-tuned run's weights; a new head is at both the one that was trained."""
    folder = run.checkpoints / checkpoint
    model = build_model(config.model, class_count(folder), config.data.image_size).eval()
    load_saved_weights(folder, model)
    tuned = {name: value.clone() for name, value in model.state_dict().items()}
    source, is_new = str(config.model.weights), config.model.head_weights == "new"
    load_weights(model, open_source(source), source, is_new)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    if is_new:
        start = {name: value for name, value in start.items() if not name.startswith("head.")}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.train.precision != "fp32" and supports_bf16(device.type):
        model.autocast_dtype = torch.bfloat16
    return Ends(model.requires_grad_(False).to(device), _moved(start, device), _moved(tuned, device))


def _moved(state: State, device: torch.device) -> State:
    return {name: value.to(device) for name, value in state.items()}


def measure_shares(
    ends: Ends, sets: RunSets[ImageArrays], alphas: Sequence[float], config: RunConfig
) -> Iterator[dict[str, float]]:
    """Validation metrics of the weights at each share."""
    with progress_bar("interpolating") as progress:
        for number, alpha in enumerate(alphas):
            model = ends.at(alpha)
            settle_batchnorm(model, sets.train, config, alpha)
            found = validation_metrics(model, sets, config.evaluate.batch_size, config.evaluate)
            progress(number + 1, len(alphas))
            yield {"alpha": float(alpha), **found}


def settle_batchnorm(model: Classifier, train: ImageArrays, config: RunConfig, alpha: float) -> None:
    """Re-estimate BatchNorm's statistics but at the ends, whose own are those that they were trained with."""
    if 0 < alpha < 1:
        reestimate_batchnorm(model, validation_batches(model, train, config.evaluate.batch_size))


def best_share(tried: Sequence[Mapping[str, float]]) -> tuple[float, str]:
    """The share with the best mean DS-AURC over the validation OOD sets, or without any the best AURC.

    Of equally good ones the largest: nearest to what was fine-tuned. Also the name of what decided.
    """
    keys = [key for key in tried[0] if key.startswith("val/ds_aurc_")] or ["val/aurc"]
    sign = 1 if larger_is_better(keys[0]) else -1
    best = max(tried, key=lambda row: (sign * float(np.mean([row[key] for key in keys])), row["alpha"]))
    return float(best["alpha"]), " and ".join(keys)


def _write(
    run: RunFolder, config: RunConfig, name: str, model: Classifier, record: Interpolation
) -> RunFolder:
    """The folder, complete or not there at all."""
    free_folder(name, place_of(run.path.parent), way_out="--name gives another")
    made = RunFolder.create(config.model_copy(update={"output": place_of(run.path.parent)}), name)
    with whole_or_gone(made.path):
        made.write_json(ENVIRONMENT, run.read_json(ENVIRONMENT) or {})
        record.write(made.path)
        progress: dict[str, Any] = {"step": record.step, "num_classes": model.head.used_weights()[0].shape[0]}
        best = next((row for row in record.tried if row["alpha"] == record.alpha and len(row) > 1), None)
        metrics = None if best is None else {key: value for key, value in best.items() if key != "alpha"}
        save_weights(made.checkpoints / "best", model.cpu(), {**progress, "metrics": metrics})
        note_status(made, "FINISHED", state="interpolated")
    return made
