"""What a worker sets up before its first step: device, model, engine, and the state of the methods."""

from __future__ import annotations

import torch

from rtk.config.schema import RunConfig
from rtk.models.batchnorm import batchnorm_buffers
from rtk.models.classifier import concatenates_views
from rtk.models.global_batchnorm import use_global_batch
from rtk.models.layers import suits_channels_last
from rtk.models.precision import runs_in_bf16
from rtk.objectives import TermSetup, active_terms
from rtk.optim import build_optimizer
from rtk.optim.methods import build_methods
from rtk.runtime.environment import available_cpus
from rtk.runtime.freed_memory import keep_freed_memory
from rtk.runtime.ray_session import hide_unassigned_gpus
from rtk.runtime.seeding import seed_torch
from rtk.train.engine import build_engine, method_setup
from rtk.train.initial import initial_model, shares_batch
from rtk.train.job import TrainingData, TrainingJob
from rtk.train.state import TrainState
from rtk.train.zero_shards import engine_shards


def build_state(job: TrainingJob, device: torch.device, data: TrainingData | None = None) -> TrainState:
    """Model, engine, and what methods and terms keep, at the start of a run.

    `data` names the samples of which a term may keep something; None: no term does.
    """
    config = job.config
    seed_torch(config.seed, 0)
    model = initial_model(config, job.num_classes, pretrained=not job.resume).to(device)
    if config.train.channels_last and suits_channels_last(model):
        model.memory_format = torch.channels_last
    if runs_in_bf16(config.train.precision, model, device.type):
        model.autocast_dtype = torch.bfloat16
    concatenate = concatenates_views(config.train.concatenate_views, model)
    if shares_batch(config):
        use_global_batch(model)
    engine = build_engine(model, build_optimizer(config.optimizer, model), config)
    shards = engine_shards(engine)
    methods = build_methods(config, method_setup(engine, shards, job.steps_per_epoch))

    def setup() -> TermSetup:
        assert data is not None
        return TermSetup(job.outputs, data.sample_ids(), device, job.steps_per_epoch)

    course = (job.steps_per_epoch, job.total_steps)
    terms = active_terms(config.objective, None if data is None else setup, course)
    apart = [] if shares_batch(config) else batchnorm_buffers(model)
    return TrainState(engine, shards, methods, terms, apart, concatenate)


def set_up_device(config: RunConfig) -> torch.device:
    """This worker's device, with its share of the node's CPU threads."""
    import ray.train.torch

    hide_unassigned_gpus()
    # Also beside a GPU: views are made on the CPU, and Ray would leave one thread for them.
    share = available_cpus() // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(config.train.threads or max(1, share))
    if torch.cuda.is_available():
        device: torch.device = ray.train.torch.get_device()
        torch.cuda.set_device(device)
        return device
    keep_freed_memory()
    return torch.device("cpu")
