"""A DeepSpeed engine for a run, and the phases of one update on it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rtk.config.schema import RunConfig
from rtk.models.batchnorm import batchnorm_layers
from rtk.optim.method import MethodSetup
from rtk.runtime.garbage import importing
from rtk.runtime.ranks import rank, world_size
from rtk.train.zero_shards import (
    EngineShards,
    UnreducedShards,
    ask_for_cores_once,
    compile_no_collectives,
    full_numel,
    is_cut,
    is_replicated,
    undo_first_step,
)

REDUCE_BUCKET = 50_000_000  # gradients reduced at a time: 200 MB, where DeepSpeed's default takes 2 GB


def build_engine(model: nn.Module, optimizer: Optimizer, config: RunConfig) -> Any:
    """Wrap a model and its base optimiser in a DeepSpeed engine of the configured ZeRO stage.

    Mixed precision is the model's own business (autocast inside `Classifier`), so weights, gradients
    and everything that the methods keep stay in fp32. With `bf16_weights` DeepSpeed turns the model to
    bf16 besides; the masters on the shards, and what the methods keep, are fp32 then too.

    Raises:
        ValueError: for `bf16_weights` with a model that has BatchNorm layers.
    """
    if config.train.precision == "bf16_weights" and batchnorm_layers(model):
        raise ValueError(
            "train.precision: got bf16_weights for a model with BatchNorm, whose running statistics "
            "would be rounded to bf16; wanted bf16 (autocast)"
        )
    deepspeed = import_deepspeed()

    buffers = dict(model.named_buffers())
    trained = sum(full_numel(parameter) for parameter in model.parameters() if parameter.requires_grad)
    settings = deepspeed_config(config, trained)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    _keep_buffers(model, buffers)
    undo_first_step(engine)
    if world_size() == 1 and is_replicated(engine):
        engine.enable_backward_allreduce = False
    return engine


def _keep_buffers(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Give buffers back their precision: the normalisation's mean, frequencies of position encodings."""
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, buffer.to(getattr(module, leaf).device))


def import_deepspeed() -> Any:
    """DeepSpeed, quiet, and set up so that it compiles nothing."""
    # Read when DeepSpeed is first imported; without it DeepSpeed guesses, and says so at length.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    with importing(), _without_mlflow(), _without_compiler():
        import deepspeed
    from deepspeed.runtime import compiler
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    compile_no_collectives(deepspeed)
    ask_for_cores_once()
    # Every ZeRO stage imports Muon, which rtk does not use; handing it to torch.compile takes seconds.
    compiler.compile = lambda: compiler.dummy_decorator
    return deepspeed


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """Let `import mlflow` fail: DeepSpeed's autotuner would load it, seconds in every worker."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let DeepSpeed's functions be as they are: to hide them from torch's compiler it would load that."""
    compiler: Any = torch.compiler
    disable = compiler.disable
    if "torch._dynamo" not in sys.modules:
        compiler.disable = lambda function, **_: function
    try:
        yield
    finally:
        compiler.disable = disable


def partitioned_build(config: RunConfig) -> AbstractContextManager[None]:
    """A context that cuts every module over the ranks as soon as it is built: no rank holds the whole."""
    deepspeed = import_deepspeed()
    deepspeed.init_distributed(verbose=False)  # takes over torch's process group
    context: AbstractContextManager[None] = deepspeed.zero.Init(
        config_dict_or_path=deepspeed_config(config), mem_efficient_linear=False
    )
    return context


@contextmanager
def whole(*tensors: Any) -> Iterator[bool]:
    """Make parameters whole for a while and keep what rank 0 writes; yield whether this rank writes.

    Tensors that are not cut are every rank's own business.
    """
    if not any(is_cut(tensor) for tensor in tensors):
        yield True
        return
    with import_deepspeed().zero.GatheredParameters(list(tensors), modifier_rank=0):
        yield rank() == 0


def deepspeed_config(config: RunConfig, trained: int = REDUCE_BUCKET) -> dict[str, Any]:
    """DeepSpeed's own config: what rtk decides, over what the recipe's `deepspeed:` block says.

    Args:
        config: the run.
        trained: parameters that take gradients. The buffer that gradients are reduced through is no larger.
    """
    raw = dict(config.deepspeed)
    bucket = {"reduce_bucket_size": max(1, min(trained, REDUCE_BUCKET))}
    zero = {"stage": needed_stage(config), **bucket, **raw.pop("zero_optimization", {})}
    return {
        **raw,
        "train_batch_size": config.train.batch_size,
        "train_micro_batch_size_per_gpu": config.train.batch_size // config.train.workers,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip_norm or 0.0,
        "zero_optimization": zero,
        "bf16": {"enabled": config.train.precision == "bf16_weights"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def needed_stage(config: RunConfig) -> int | str:
    """ZeRO stage of a run; a lone worker has nobody to share with, and pays for 1 in time and memory."""
    stage, masters = config.train.zero_stage, config.train.precision == "bf16_weights"
    alone = config.train.workers == 1 and not masters and "zero_optimization" not in config.deepspeed
    return 0 if stage == 1 and alone else stage


def method_setup(engine: Any, shards: EngineShards, steps_per_epoch: int = 1) -> MethodSetup:
    """What the methods of a run are built from."""
    own = partial(UnreducedShards, engine, shards)
    return MethodSetup(engine.module, shards.base_optimizer(), shards, own, steps_per_epoch)


def backward(engine: Any, loss: Tensor, reduce: bool) -> None:
    """Back-propagate one term; gradients are reduced over ranks with the last term of a pass.

    ZeRO-2 and 3 reduce at every call: they have no room for a rank's own gradients.
    """
    engine.set_gradient_accumulation_boundary(reduce)
    engine.backward(loss)
    if reduce and not engine.enable_backward_allreduce:
        for parameter in engine.module.parameters():
            if parameter.requires_grad and parameter.grad is None:  # as DeepSpeed does where it reduces them
                parameter.grad = torch.zeros_like(parameter)


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the learning rate of every parameter group, times the group's `scale` where it has one."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
