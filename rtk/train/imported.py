"""From a file of weights that rtk did not train to a run that can be evaluated, exported and trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtk.config.errors import ConfigError
from rtk.config.schema import RunConfig
from rtk.data.sets.builtin import is_missing
from rtk.data.sets.class_names import label_map
from rtk.data.sets.of_run import blamed_on, open_configured
from rtk.models import Classifier, build_model
from rtk.models.shapes_only import shapes_only
from rtk.models.weights import classes_of, fitting_weights, load_weights
from rtk.models.weights_file import Weights, read_weights
from rtk.runs.data_record import ENVIRONMENT
from rtk.runs.folder import RunFolder
from rtk.runs.names import free_folder
from rtk.runs.origin import Origin, hash_weights
from rtk.runs.stored_checkpoints import whole_or_gone
from rtk.runtime.environment import describe_environment
from rtk.tracking.status import note_status
from rtk.train.saving import save_weights


@dataclass(frozen=True)
class Imported:
    """A run made of imported weights.

    Attributes:
        run: its folder.
        origin: of the weights.
        classes: names in the order of the logits; empty where nothing has said them.
        num_classes: number of logits.
        parameters: number of weights.
        doubt: what cannot be told of the network; mostly empty.
    """

    run: RunFolder
    origin: Origin
    classes: tuple[str, ...]
    num_classes: int
    parameters: int
    doubt: str


def import_weights(
    weights: Path, config: RunConfig, name: str | None = None, classes: Path | None = None
) -> Imported:
    """Make a run folder of a file of weights; nothing is written where they do not fit.

    Args:
        weights: a PyTorch or safetensors file, or a folder of safetensors.
        config: of the recipe that says which network it is, and how its images are prepared.
        name: of the run, whose folder is made in the config's `output`; None: as of a trained run.
        classes: JSON file with the names of the logits in their order; None: they are those of `data.train`,
            where that is there.

    Raises:
        ValueError: naming the file or key, where weights, number of classes or a constant do not fit.
    """
    if name is not None:
        free_folder(name, config.output, "--out", "wanted a new folder")
    file = read_weights(weights)
    config = _settled(config, weights)
    num_classes = _count_classes(config, file.tensors, str(weights))
    names = class_names(config, classes)
    if names and len(names) != num_classes:
        where = "data.train" if classes is None else f"--classes {classes}"
        raise ConfigError(f"{where}: got {len(names)} classes, but {weights} has {num_classes} logits")
    model = build_model(config.model, num_classes, config.data.image_size)
    reading = load_weights(model, file.tensors, str(weights))
    origin = Origin(str(weights.absolute()), hash_weights(weights), reading.owner, file.place, file.beside)
    run = _write(config, name, model, num_classes, names, origin)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Imported(run, origin, names, num_classes, parameters, reading.doubt)


def class_names(config: RunConfig, given: Path | None) -> tuple[str, ...]:
    """Names of the logits: those given, else those of the training images, else none.

    Raises:
        ConfigError: a name is given twice, the file is none of names, or the training images have others.
    """
    train = config.data.train
    there: tuple[str, ...] = ()
    if not is_missing(train):
        there = open_configured(train, "data.train", need_classes=True).classes
    if given is None:
        return there
    names = _read_names(given)
    with blamed_on(f"--classes {given}"):
        label_map(there, names)
    return names


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {path}: cannot be read ({error})") from None
    names = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'--classes {path}: wanted {{"classes": ["name of logit 0", ...]}}, not empty')
    return tuple(names)


def _settled(config: RunConfig, weights: Path) -> RunConfig:
    """The config with the weights' own path in place of what the recipe's training would start from.

    Raises:
        ConfigError: the recipe trains adapters, which published weights have none of.
    """
    if config.model.lora.rank:
        raise ConfigError(
            f"model.lora.rank: got {config.model.lora.rank}, imported weights have no adapters: wanted 0"
        )
    model = config.model.model_copy(update={"weights": str(weights.absolute()), "head_weights": "load"})
    return config.model_copy(update={"model": model})


def _count_classes(config: RunConfig, weights: Weights, origin: str) -> int:
    """Number of classes that a file's head has, one less than logits where one of these rejects.

    Raises:
        ConfigError: it has no head.
    """
    with shapes_only():
        model = build_model(config.model, 1, config.data.image_size)
    count = classes_of(model, weights)
    if count is None:
        fitting_weights(model, weights, origin, new_head=True)  # what else does not fit is said first
        raise ConfigError(
            f"{origin}: holds no classifier, so there is nothing to evaluate; "
            f"rtk train RECIPE model.weights={origin} model.head_weights=new trains one"
        )
    return count - config.model.reject_class


def _write(
    config: RunConfig,
    name: str | None,
    model: Classifier,
    num_classes: int,
    classes: Sequence[str],
    origin: Origin,
) -> RunFolder:
    """The folder, complete or not there at all."""
    run = RunFolder.create(config, name)
    with whole_or_gone(run.path):
        known = {"data": {}, "classes": list(classes), "folder": str(Path.cwd())}
        if not classes:
            del known["classes"]  # to be written down by the first evaluation
        run.write_json(ENVIRONMENT, {**describe_environment(config.plugins), **known})
        origin.write(run.path)
        progress = {"step": 0, "num_classes": num_classes, "metrics": None, "imported": origin.sha256}
        save_weights(run.checkpoints / "best", model, progress)
        note_status(run, "FINISHED", state="imported")
    return run
