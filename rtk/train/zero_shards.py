"""Where DeepSpeed keeps the fp32 weights and averaged gradients of this rank, for every ZeRO stage.

This file alone reads DeepSpeed's private fields (`tests/train/test_private_fields.py` searches for them).
Checked against one-process references in `tests/train/test_sharded_steps.py`; look here first when DeepSpeed
is upgraded.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from rtk.optim.shards import Fragment, LocalShards, add_to_gradients, wide_gradient


class ReplicatedShards(LocalShards):
    """ZeRO-0: every rank holds all weights, and DeepSpeed has already averaged their gradients."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine.optimizer)
        self.names = {id(parameter): name for name, parameter in engine.module.named_parameters()}

    def base_optimizer(self) -> Optimizer:
        """The torch optimiser itself."""
        return self.optimizer

    def fragments(self) -> list[Fragment]:
        """Every parameter whole."""
        parameters = enumerate(self.owners())
        return [Fragment(self.names[id(p)], 0, p.numel(), index, 0) for index, p in parameters]


class ReplicatedMasterShards(ReplicatedShards):
    """ZeRO-0 with the model in bf16: every rank holds fp32 masters of all weights."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.inner: Optimizer = engine.optimizer.optimizer
        self.half = [parameter for group in engine.optimizer.fp16_groups for parameter in group]
        self.masters = [master for group in engine.optimizer.fp32_groups for master in group]
        names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
        pairs = zip(self.masters, self.half, strict=True)
        self.names = {id(master): names[id(parameter)] for master, parameter in pairs}

    def owners(self) -> list[Tensor]:
        """The masters, under which the base optimiser files its state."""
        return self.masters

    def base_optimizer(self) -> Optimizer:
        """The torch optimiser inside DeepSpeed's."""
        return self.inner

    def gradients(self) -> list[Tensor]:
        """The model's gradients in fp32; zeros for a parameter that the loss does not reach."""
        return [wide_gradient(parameter) for parameter in self.half]

    def add_to_gradients(self, tensors: list[Tensor], scale: float) -> None:
        """Add to the model's gradients, as LocalShards does."""
        add_to_gradients(self.half, tensors, scale)

    def publish(self) -> None:
        """Round the masters into the model's weights."""
        for parameter, master in zip(self.half, self.masters, strict=True):
            parameter.data.copy_(master.data)


class UnreducedShards(LocalShards):
    """All weights and this rank's own gradients, before their reduction: ZeRO-0 and 1 with `sync: local`.

    Moves the model's copy of the weights. Under ZeRO-1 the masters stay where they are; the base step
    starts from them.
    """

    averaged = False

    def __init__(self, engine: Any, reduced: EngineShards) -> None:
        self.module, self.reduced = engine.module, reduced

    def owners(self) -> list[Tensor]:
        """Every parameter of the model that takes a gradient."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def clear_gradients(self) -> None:
        """As the stage does it."""
        self.reduced.clear_gradients()


class _ZeroShards:
    """What ZeRO-1/2 and ZeRO-3 have in common."""

    averaged = True

    def __init__(self, engine: Any) -> None:
        self.zero, self.module = engine.optimizer, engine.module

    def base_optimizer(self) -> Optimizer:
        """The torch optimiser inside DeepSpeed's."""
        return self.zero.optimizer

    def owners(self) -> list[Tensor]:
        """Flat fp32 shards, which are also the keys of the base optimiser's state."""
        raise AssertionError("each stage says where its shards are")

    def weights(self) -> list[Tensor]:
        """Flat fp32 shards."""
        return [shard.data for shard in self.owners()]

    def gradients(self) -> list[Tensor]:
        """The averaged gradients, laid out as the shards are (their padding is zero)."""
        flat = []
        for index, shard in enumerate(self.owners()):
            gradient = torch.zeros_like(shard)
            parts = self.zero.averaged_gradients[index]
            filled = 0
            for part in parts:
                gradient[filled : filled + part.numel()] = part.reshape(-1)
                filled += part.numel()
            flat.append(gradient)
        return flat

    def add_to_gradients(self, tensors: list[Tensor], scale: float) -> None:
        """Add to the averaged gradients, which are parts of the shards, in their order."""
        for index, tensor in enumerate(tensors):
            filled = 0
            for part in self.zero.averaged_gradients[index]:
                added = tensor.reshape(-1)[filled : filled + part.numel()]
                part.add_(added.view_as(part), alpha=scale)
                filled += part.numel()

    def clear_gradients(self) -> None:
        """Forget gradients, reduced ones included."""
        # `engine.zero_grad()` would leave what is already averaged in place under stages 2 and 3.
        self.zero.zero_grad(set_to_none=True)
        for index in list(self.zero.averaged_gradients):
            self.zero.averaged_gradients[index] = None

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Sum over the ranks, each of which owns another shard."""
        dist.all_reduce(value)
        return value


class PartitionedOptimizerShards(_ZeroShards):
    """ZeRO-1 and ZeRO-2: one flat fp32 shard a parameter group; the model's weights are whole."""

    def owners(self) -> list[Tensor]:
        """One flat shard a parameter group."""
        return self.zero.single_partition_of_fp32_groups

    def publish(self) -> None:
        """Copy the shards into the model's weights and gather those of the other ranks."""
        self.zero.update_lp_params()

    def fragments(self) -> list[Fragment]:
        """Parameters, or parts of them, in this rank's slice of each group."""
        found = []
        for name, parameter in self.module.named_parameters():
            mapping = getattr(parameter, "_hp_mapping", None)
            if mapping is not None:
                inside, here = mapping.lp_fragment_address, mapping.hp_fragment_address
                found.append(Fragment(name, inside.start, here.numel, mapping.param_group_index, here.start))
        return found


class PartitionedWeightShards(_ZeroShards):
    """ZeRO-3: weights themselves are sharded; every parameter is cut into equal parts, one per rank.

    What fills up the last part of a parameter is set to zero. DeepSpeed leaves there what the memory held,
    and SGD's weight decay would carry it into the momentum, whose norm MSAM takes.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        for index, shard in enumerate(self.weights()):
            filled = 0
            here = (fragment for fragment in self.fragments() if fragment.shard == index)
            for fragment in sorted(here, key=lambda fragment: fragment.start):
                shard[filled : fragment.start].zero_()
                filled = fragment.start + fragment.numel
            shard[filled:].zero_()

    def owners(self) -> list[Tensor]:
        """One flat shard a sub-group."""
        return self.zero.fp32_partitioned_groups_flat

    def publish(self) -> None:
        """Copy the shards into the partitioned weights; gather those that ZeRO-3 keeps whole."""
        # Small parameters that ZeRO-3 keeps gathered would otherwise go stale.
        self.zero.parameter_offload.partition_all_parameters()
        for index in range(len(self.zero.fp16_groups)):
            self.zero._reassign_or_swap_out_partitioned_parameters(index)
        if self.zero.persistent_parameters:
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)

    def fragments(self) -> list[Fragment]:
        """This rank's equal part of every parameter."""
        found = []
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            shard, start, part = self.zero.grad_position[self.zero.get_param_id(parameter)]
            offset = part * dist.get_rank()
            numel = min(part, parameter.ds_numel - offset)  # the last parts may be padding
            if numel > 0:
                found.append(Fragment(name, offset, numel, shard, start))
        return found


EngineShards = ReplicatedShards | PartitionedOptimizerShards | PartitionedWeightShards


def engine_shards(engine: Any) -> EngineShards:
    """The shards of a DeepSpeed engine, whatever its ZeRO stage."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        half = engine.bfloat16_enabled()
        return ReplicatedMasterShards(engine) if half else ReplicatedShards(engine)
    return PartitionedOptimizerShards(engine) if stage < 3 else PartitionedWeightShards(engine)


def is_replicated(engine: Any) -> bool:
    """Whether every rank holds all weights, in fp32, and nothing else of them."""
    return engine.zero_optimization_stage() == 0 and not engine.bfloat16_enabled()


def undo_first_step(engine: Any) -> None:
    """Undo the step on zero gradients that DeepSpeed's optimiser of ZeRO-0 in bf16 takes when it is built."""
    if engine.zero_optimization_stage() == 0 and engine.bfloat16_enabled():
        shards = ReplicatedMasterShards(engine)
        shards.inner.state.clear()
        for master, parameter in zip(shards.masters, shards.half, strict=True):
            master.data.copy_(parameter.data)


def is_cut(tensor: Any) -> bool:
    """Whether ZeRO-3 has cut a parameter over the ranks."""
    return hasattr(tensor, "ds_id")


def full_numel(parameter: Any) -> int:
    """Elements of a parameter, also of one that is cut over the ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_shape(tensor: Any) -> tuple[int, ...]:
    """Shape of a model's tensor, also of one that is cut over the ranks."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def compile_no_collectives(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling a helper of CPU communication on first use, which takes 31 s."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def ask_for_cores_once() -> None:
    """Keep DeepSpeed from starting `numactl` several times in a step of ZeRO-3 on CPUs, whose cores stay."""
    from deepspeed.utils import numa

    if not hasattr(numa.get_numa_cores, "cache_info"):
        numa.get_numa_cores = cache(numa.get_numa_cores)


def frozen_parts(module: nn.Module) -> list[tuple[str, int, Tensor]]:
    """Parameters that take no gradient, as far as they are on this rank: name, first element, flat part.

    No optimiser owns them. ZeRO-3 cuts them into equal parts, one per rank, as it does the others; every
    other stage has them whole on every rank.
    """
    parts = []
    for name, value in module.named_parameters():
        parameter: Any = value  # DeepSpeed adds attributes to it
        if parameter.requires_grad:
            continue
        if not is_cut(parameter):
            parts.append((name, 0, parameter.data.reshape(-1)))
            continue
        part: Tensor = parameter.ds_tensor.data  # the last ones may be padding
        offset = part.numel() * dist.get_rank()
        if offset < parameter.ds_numel:
            parts.append((name, offset, part[: parameter.ds_numel - offset]))
    return parts
