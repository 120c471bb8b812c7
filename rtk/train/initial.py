"""The model that a run starts from: built, cut over the ranks where it is large, and filled with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from rtk.config.errors import ConfigError
from rtk.config.model import LoraConfig
from rtk.config.schema import RunConfig
from rtk.data.sets.class_names import label_map
from rtk.models import Classifier, build_model
from rtk.models.classifier import concatenates_views
from rtk.models.global_batchnorm import check_layers
from rtk.models.lora import add_adapters
from rtk.models.shapes_only import shapes_only
from rtk.models.weights import fitting_weights, load_weights
from rtk.models.weights_file import LazyTensor, open_weights
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.data_record import DataRecord, absolute
from rtk.runs.ensemble import checkpoint_identity, read_ensemble
from rtk.runs.folder import RunFolder
from rtk.runs.object_store import is_uri
from rtk.runs.origin import hash_weights
from rtk.runs.working_copy import bring
from rtk.train.checkpoint import class_count
from rtk.train.engine import partitioned_build, whole
from rtk.train.shard_reader import weights_reader
from rtk.train.zero_shards import full_shape

PARTITION_ABOVE = 50_000_000  # parameters; smaller models are built whole, then cut


def initial_model(
    config: RunConfig, num_classes: int, pretrained: bool = True, partition_above: int = PARTITION_ABOVE
) -> Classifier:
    """The classifier at the start of a run, with its weights from `model.weights` or random ones.

    Under ZeRO-3 a large model is cut over the ranks module by module while it is built, and filled tensor by
    tensor, so that no rank ever holds it whole.

    Args:
        config: of the run.
        num_classes: C.
        pretrained: load `model.weights`; not needed where a checkpoint will be.
        partition_above: number of parameters from which a model is large.

    Raises:
        WeightsError: where the weights do not fit.
    """
    cut = config.train.zero_stage == 3 and _parameters(config, num_classes) > partition_above
    with partitioned_build(config) if cut else nullcontext():
        model = _build(config, num_classes)
    if config.model.weights is None and cut:
        _finish_random_weights(model.backbone)
    if config.model.weights is not None and pretrained:
        path = config.model.weights
        load_weights(model, open_source(path), path, config.model.head_weights == "new", whole, full_shape)
    add_adapters(model.backbone, config.model.lora)
    if config.train.checkpoint_activations:
        _checkpoint_activations(model.backbone)
    if config.train.compile:
        model.backbone.compile()
    return model


def check_model(config: RunConfig, num_classes: int) -> None:
    """Check what can be known of a run's model without allocating it.

    Raises:
        ValueError: naming the key, where there is no such model or option, or the weights do not fit.
    """
    with shapes_only():
        model = _build(config, num_classes)
        concatenates_views(config.train.concatenate_views, model)
    if shares_batch(config):
        check_layers(model)
    if config.model.weights is not None:
        new_head = config.model.head_weights == "new"
        fitting_weights(model, open_source(config.model.weights), config.model.weights, new_head)
    if config.train.checkpoint_activations:
        _checkpoint_activations(model.backbone)
    add_adapters(model.backbone, config.model.lora)


def shares_batch(config: RunConfig) -> bool:
    """Whether BatchNorm normalises by the images of all workers.

    Not where each worker ascends by itself (m-SAM): the weights of its second pass are its own.
    """
    alone = config.sharpness.variant != "none" and config.sharpness.sync == "local"
    return config.train.workers > 1 and config.model.batchnorm == "sync" and not alone


def check_head(config: RunConfig, classes: Sequence[str]) -> None:
    """Refuse the head of another run whose logits stand for other classes, or for these in another order.

    Raises:
        ConfigError: naming `model.weights` and the differences.
    """
    path = config.model.weights
    if path is None or config.model.head_weights == "new" or config.data.labels_by == "number":
        return
    known = DataRecord.read(bring(path)).classes
    try:
        differ = "they stand in another order" if known and label_map(classes, known) else ""
    except ValueError as error:
        differ = str(error)
    if differ:
        raise ConfigError(
            f"model.weights: the head of {path} is one for other classes: {differ}; "
            "model.head_weights=new draws a new one, data.labels_by=number takes it as it is"
        )


def open_source(path: str) -> dict[str, LazyTensor]:
    """Tensors of `model.weights`, by name: of a file, a folder of files, or the best checkpoint of a run.

    Raises:
        ValueError: where none of these is found.
    """
    found = bring(path)
    if is_uri(path) and not found.exists():
        raise ConfigError(f"model.weights: got {path!r}, where there is nothing")
    if (found / "config.yaml").is_file():
        return _run_weights(RunFolder.open(found))
    return open_weights(found)


def with_placed_weights(config: RunConfig) -> RunConfig:
    """A config whose `model.weights` is an absolute path: workers have another working folder."""
    if config.model.weights is None:
        return config
    model = config.model.model_copy(update={"weights": absolute(config.model.weights)})
    return config.model_copy(update={"model": model})


def source_identity(path: str) -> str:
    """SHA-256 of `model.weights`: of a file, of a folder's files, or of the manifest of a run's checkpoint.

    Raises:
        ValueError: there is nothing.
    """
    found = bring(path)
    if (found / "config.yaml").is_file():
        return checkpoint_identity(resolve_checkpoint(RunFolder.open(found).checkpoints / "best"))
    if not found.exists():
        raise ConfigError(f"model.weights: got {path!r}, where there is nothing")
    return hash_weights(found)


def _run_weights(run: RunFolder) -> dict[str, LazyTensor]:
    """Weights of a run's best checkpoint, averaged where it kept an average."""
    folder = resolve_checkpoint(run.checkpoints / "best")
    config = run.config()
    if read_ensemble(run.path) is not None:
        raise ConfigError(f"model.weights: {run.place} is an ensemble, wanted one network")
    if config.model.lora.rank:
        raise ConfigError(f"model.weights: {run.place} was trained with adapters, wanted a run without")
    with shapes_only():
        state = _build(config, class_count(folder)).state_dict()
    read = weights_reader(folder)
    return {
        name: LazyTensor(tuple(tensor.shape), partial(read, name, tensor.shape))
        for name, tensor in state.items()
    }


def _build(config: RunConfig, num_classes: int) -> Classifier:
    """The classifier without adapters, which come after the weights."""
    plain = config.model.model_copy(update={"lora": LoraConfig()})
    return build_model(plain, num_classes, config.data.image_size)


def _parameters(config: RunConfig, num_classes: int) -> int:
    with shapes_only():
        return sum(parameter.numel() for parameter in _build(config, num_classes).parameters())


@torch.no_grad()
def _finish_random_weights(backbone: Any) -> None:
    """The part of timm's initialisation that ZeRO-3 misses: it reaches into layers that are cut already."""
    if not hasattr(backbone, "fix_init_weight"):
        return
    for index, block in enumerate(backbone.blocks):
        scaled = (block.attn.proj.weight, block.mlp.fc2.weight)
        with whole(*scaled) as here:
            if here:
                for weight in scaled:
                    weight.div_(math.sqrt(2 * (index + 1)))


def _checkpoint_activations(backbone: Any) -> None:
    if not hasattr(backbone, "set_grad_checkpointing"):
        raise ValueError(
            f"train.checkpoint_activations: got true, {type(backbone).__name__} is not built for it"
        )
    backbone.set_grad_checkpointing(True)
