import torch
from torch import nn

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.footprint import _saved_bytes, measure_footprint


def without_data(config: ModelConfig, dtype: torch.dtype | None = None):
    with torch.device("meta"):
        model = build_model(config, 10, 32)
    model.autocast_dtype = dtype
    return model


def test_saved_bytes_of_a_layer_counted_by_hand():
    """Linear keeps its input (the images: not counted), ReLU its output, the second Linear the same one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    images, labels = torch.rand(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64)
    log_softmax, one_number, targets = 5 * 3 * 4, 4, 5 * 8
    assert _saved_bytes(net, images, labels) == 5 * 7 * 4 + log_softmax + one_number + targets


def test_a_trace_without_data_counts_what_a_real_pass_saves():
    config = ModelConfig(width=8)
    model = build_model(config, 10).train()
    real = _saved_bytes(model, torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    traced = measure_footprint(without_data(config), 32, 4)
    assert traced.trained == sum(parameter.numel() for parameter in model.parameters())
    assert traced.frozen == 0
    assert traced.activations == real


def test_bf16_weights_need_no_copies():
    config = ModelConfig(name="timm/test_vit")
    autocast = measure_footprint(without_data(config, torch.bfloat16), 32, 1)
    weights = measure_footprint(without_data(config, torch.bfloat16).bfloat16(), 32, 1)
    assert weights.activations < autocast.activations


def test_checkpointed_activations_are_one_block_and_the_inputs_of_all():
    config = ModelConfig(name="timm/test_vit")
    blocks = len(without_data(config).backbone.blocks)
    kept, checkpointed = (measure_footprint(without_data(config), 32, 16, on) for on in (False, True))
    tokens = 16 * (4 + 1) * 64 * 4  # images x (patches + class token) x width x fp32
    assert checkpointed.activations == blocks * tokens + kept.activations // blocks
